"""An OpenID provider to try sign-in with: django-oauth-toolkit in a process of its own, on Keycloak's URLs. Not for production."""
