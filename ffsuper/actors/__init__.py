"""The actors, one file each; every one is an ``async def run`` whose signature is its whole world."""
