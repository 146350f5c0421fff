"""A block of the configuration, as `milo.core.config` has it, in Nomad's HCL specification."""

from __future__ import annotations

from milo.core.config.options import Option, options_of
from milo.wire.hashicorp.nomad.plugins.shared import hclspec


def spec_of(kind: type) -> hclspec.Spec:
    """Return the specification of a block whose keys are the fields of the attrs class ``kind``.

    No key is required and none has a default, so that Nomad sends null for what is not given.
    """
    return hclspec.Spec(
        object=hclspec.Object(
            attributes={key: _spec(option) for key, option in options_of(kind).items()}
        )
    )


def _spec(option: Option) -> hclspec.Spec:
    if option.value.block is None:
        return hclspec.Spec(attr=hclspec.Attr(name=option.key, type=option.value.hcl))
    nested = spec_of(option.value.block)
    if option.value.hcl == "blocks":
        return hclspec.Spec(block_list=hclspec.BlockList(name=option.key, nested=nested))
    return hclspec.Spec(block_value=hclspec.Block(name=option.key, nested=nested))
