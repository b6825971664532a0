"""Adapters for those who receive webhooks: `cubehook.verify` where a web framework wants it.

`wsgi.receiver`, `asgi.receiver`: an application that calls a function with each genuine event.
`flask.verified`, `django.verified`: a decorator for a view, which is given the event.
`fastapi.verified`: a dependency of a path operation, whose value is the event.

Each is a module of its own, imported by who uses it: the frameworks are the receiver's, and none
of them comes with cubehook. They share their options and their answers:

secret: the secret, or several while one is being replaced, as `verify` takes them; or a function
without arguments that returns them, called for each request.
scheme: the scheme's name; None: any that signs the time, by the header that is there.
tolerance: how far the signed timestamp may be from now, in seconds, either way.
max_bytes: the longest body that is read.

Options that cannot be used raise `cubehook.ConfigError`. A request is refused with 405 for any
method but POST, 413 for a body over ``max_bytes``, 400 for a body without a usable length or
shorter than that, 401 for everything that `verify` refuses. What the application's own code raises
is left to the framework, which answers 500: so the sender tries again.
"""

from cubehook.receivers._core import ReceivedEvent

__all__ = ["ReceivedEvent"]
