"""The one Django project of the test process, for its settings can be made only once.

A test brings its own views and middleware with ``django.test.override_settings(ROOT_URLCONF=…, MIDDLEWARE=[…])`` and
makes its handler inside; ``ROOT_URLCONF`` may also be a class that has ``urlpatterns``.
"""

import django
from django.conf import settings

urlpatterns: list[object] = []

settings.configure(
    ALLOWED_HOSTS=["*"],
    LOGGING_CONFIG=None,
    MIDDLEWARE=[],
    ROOT_URLCONF=__name__,
    SECRET_KEY="not one",
)
django.setup()
