"""Firmware images: samples that a bootloader would accept, and putting binaries into a layout."""
