"""Which labels, and which directions of the data, an error of the elastic constants comes from."""
