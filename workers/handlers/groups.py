"""Tasks that belong together: what went wrong first is what is told, not a group of errors."""


def first_error(group: BaseExceptionGroup[Exception]) -> Exception:
    """The first error of a task group's failures, however deep."""
    error = group.exceptions[0]
    return first_error(error) if isinstance(error, BaseExceptionGroup) else error
