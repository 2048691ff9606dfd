# The app image by a Docker engine (BuildKit): the same command, user, paths and labels as
# tandem/oci/app_image/assemble.py gives without one. The model is put on later, as one more layer.
ARG BASE_IMAGE=python:3.11-slim

# The lock file, to be mounted: a copy that is removed again would leave a deletion in the image.
FROM scratch AS lock
ARG LOCK=requirements/serving.txt
COPY ${LOCK} /lock.txt

FROM ${BASE_IMAGE}

# Dependencies first: they change least. Wheels by hash, nothing is built; scripts and installers'
# notes go, and the byte code is used without a look at the source. A person's pip settings come as
# a secret, so that an index's password is in no layer.
RUN --mount=type=bind,from=lock,source=/lock.txt,target=/tmp/lock.txt \
    --mount=type=cache,target=/root/.cache/pip,sharing=locked \
    --mount=type=secret,id=pip,target=/root/.config/pip/pip.conf \
    python3 -m pip install --quiet --no-input --disable-pip-version-check \
        --root-user-action=ignore --require-hashes --only-binary=:all: --no-deps --no-compile \
        --target /app/lib -r /tmp/lock.txt \
    && rm -rf /app/lib/bin \
    && find /app/lib -path '*.dist-info/*' \
        \( -name INSTALLER -o -name REQUESTED -o -name direct_url.json \) -delete \
    && { python3 -m compileall -q -j 0 --invalidation-mode unchecked-hash -x /tests/ /app/lib \
        || true; }

# The application: what [tool.tandem.app] in pyproject.toml names as its paths.
COPY serving /app/serving
COPY tandem/__init__.py tandem/contract.py tandem/errors.py /app/tandem/
COPY tandem/serving /app/tandem/serving
COPY tandem/model/__init__.py /app/tandem/model/
COPY tandem/model/package /app/tandem/model/package
RUN python3 -m compileall -q --invalidation-mode unchecked-hash /app/serving /app/tandem

ARG APP=digits
ARG COMMIT=
LABEL org.opencontainers.image.title=${APP} tandem.app=${APP}
ENV PYTHONPATH=/app/lib:/app \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    TANDEM_MODEL=/model \
    TANDEM_APP_NAME=${APP} \
    TANDEM_APP_COMMIT=${COMMIT}
WORKDIR /app
USER 10001:10001
EXPOSE 8080/tcp
STOPSIGNAL SIGTERM
CMD ["python3", "-m", "serving"]
