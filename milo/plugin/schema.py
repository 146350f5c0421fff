"""The schemas of `milo.core.config.options` as Nomad's HCL specification. Pure."""

from __future__ import annotations

from milo.core.config.reader import Attr, Block, Schema
from milo.wire.hashicorp.nomad.plugins.shared import hclspec


def spec_from_schema(schema: Schema) -> hclspec.Spec:
    """The HCL specification of a block with these keys, all of them optional."""
    return hclspec.Spec(
        object=hclspec.Object(attributes={key: _spec(key, item) for key, item in schema.items()})
    )


def _spec(key: str, item: Attr | Block) -> hclspec.Spec:
    if isinstance(item, Block):
        nested = spec_from_schema(item.keys)
        if item.many:
            return hclspec.Spec(block_list=hclspec.BlockList(name=key, nested=nested))
        return hclspec.Spec(block_value=hclspec.Block(name=key, nested=nested))
    # Inside of a default, Nomad does not imply the name from the key.
    attr = hclspec.Spec(attr=hclspec.Attr(name=key, type=item.type))
    if item.default is None:
        return attr
    literal = hclspec.Spec(literal=hclspec.Literal(value=item.default))
    return hclspec.Spec(default=hclspec.Default(primary=attr, default=literal))
