"""What can go wrong with the store, named after what the caller can do about it; each message is one line."""


class StoreError(Exception):
    """It did not work; the message says why and what to do."""


class BadModelId(StoreError):
    """The text is no id of a model: it could lead out of the store, or is not written like one."""


class UnknownModel(StoreError):
    """The store has no such model, or several of that short name."""


class Busy(StoreError):
    """Another process is pulling or removing this very model."""


class RepoUnknown(StoreError):
    """The hub has no such repository or revision."""


class NoAccess(StoreError):
    """The hub wants a token, another token, or the model's terms accepted."""


class HubUnavailable(StoreError):
    """The hub cannot be reached or answers with errors; trying again later may help."""


class NotServable(StoreError):
    """The repository holds nothing that can be served here; nothing of its weights was fetched."""


class NoSpace(StoreError):
    """The disk cannot take the model. `short_bytes`: how much has to be freed."""

    def __init__(self, message: str, short_bytes: int) -> None:
        super().__init__(message)
        self.short_bytes = short_bytes


class DamagedDownload(StoreError):
    """What the hub sent is, twice, not what the hub says it is."""
