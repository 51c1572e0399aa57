"""The one exception a user is meant to see."""


class UserError(Exception):
    """Bad input, told in one line: what, where, what was expected, what was found, what to do.

    Scripts print the line without a traceback and exit with `code`.
    """

    def __init__(self, message, code=2):
        super().__init__(message)
        self.code = code
