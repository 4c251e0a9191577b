"""The engine: worker processes that hold the models, and the daemon's end of the line to them."""
