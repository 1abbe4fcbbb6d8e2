"""Refuses a Host that is not ours; what a view of the gateway raised, in the one JSON shape."""

from __future__ import annotations

from asgiref.sync import iscoroutinefunction, markcoroutinefunction

from apps.common.errors import VivavoceError
from voice.gateway.rest.door import refused


class middleware:
    sync_capable = async_capable = True

    def __init__(self, get_response):
        self.get_response = get_response
        if iscoroutinefunction(get_response):
            markcoroutinefunction(self)

    def __call__(self, request):
        request.get_host()  # a Host that is nobody's: DisallowedHost, which Django answers with 400
        return self.get_response(request)

    def process_exception(self, request, exception):
        return refused(exception) if isinstance(exception, VivavoceError) else None
