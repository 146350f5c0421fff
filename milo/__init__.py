"""Milo: a Nomad task driver that runs Java JARs in OCI containers with crun."""

__version__ = "0.1.0"
