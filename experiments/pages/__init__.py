"""Make HTML pages of runs, one file each: all inside, nothing asked for from elsewhere."""
