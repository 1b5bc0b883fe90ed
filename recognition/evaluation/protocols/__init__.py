"""Benchmarks found by name: one file each, whatever its files' layout and whatever it measures."""

from recognition.registry import Registry

PROTOCOLS = Registry("protocol")
