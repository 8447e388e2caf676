"""The sweeps that make time pass, one file each; actors too."""
