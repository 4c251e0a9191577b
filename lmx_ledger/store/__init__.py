"""The model store: folders of models under HOME/models, and how they get there."""
