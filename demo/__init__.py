"""What a second prompt changes, block by block: `wan-activation demo`."""
