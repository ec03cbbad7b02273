# The service for production: docs/deploy.md says how to run it.
FROM python:3.13-slim-trixie AS build
WORKDIR /app
COPY requirements.lock ./
# The virtual environment has no pip, so nothing can be installed into it later.
RUN python -m venv --without-pip /venv \
    && pip --python /venv/bin/python install --no-cache-dir --disable-pip-version-check \
       --no-deps --require-hashes -r requirements.lock
COPY . .
# Compiled here, because the service may not write to its folder.
RUN python -m compileall -q .

FROM python:3.13-slim-trixie
RUN pip uninstall --yes pip
# gunicorn's heartbeat file belongs in memory. FLASK_APP lets `flask` work from every folder.
ENV APP_ENV=production \
    FLASK_APP=/app/wsgi.py \
    FLASK_SKIP_DOTENV=1 \
    PATH=/venv/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    TMPDIR=/dev/shm
WORKDIR /app
COPY --from=build /venv /venv
COPY --from=build /app /app
USER 10001:10001
EXPOSE 8000
# http.client, since urllib would ask the proxy that HTTP_PROXY names.
HEALTHCHECK --interval=10s --timeout=5s --start-period=10s \
    CMD ["python", "-c", "import http.client, os, sys; c = http.client.HTTPConnection('127.0.0.1', os.environ.get('PORT') or 8000, timeout=3); c.request('GET', '/health'); sys.exit(c.getresponse().status != 200)"]
CMD ["gunicorn", "wsgi:app"]
