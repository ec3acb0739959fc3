"""The two kinds of worker process: what each is built from and what it does besides its stages."""
