from __future__ import annotations

from django.http import HttpRequest, HttpResponse, JsonResponse
from django.views.decorators.csrf import csrf_exempt
from django.views.decorators.http import require_POST

from apps.billing.stripe import webhook_receive
from apps.common.errors import BadRequest


@csrf_exempt
@require_POST
def webhook(request: HttpRequest) -> HttpResponse:
    """Where the payment provider tells us things; signed, stored, worked off by the `default` worker."""
    if not webhook_receive(request):
        return JsonResponse(BadRequest("The signature does not fit this body, or is older than five minutes.").to_json(), status=400)
    return HttpResponse(status=200)
