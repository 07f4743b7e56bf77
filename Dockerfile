# A hub in a container: built in one stage, run in another without pip, compiler or root.
#
#   docker build -t clawnet .
#   docker run --read-only --tmpfs /tmp -v clawnet:/data -p 127.0.0.1:8080:8080 clawnet
#
# docs/install.md has more, and says what of this was tried where.

FROM python:3.13-slim AS build
WORKDIR /build
# The dependencies first: they change less often than the source, and stay in the cache.
COPY requirements.lock ./
RUN python -m venv --without-pip /opt/clawnet \
 && python -m pip --disable-pip-version-check --python /opt/clawnet/bin/python \
        install --no-cache-dir --only-binary=:all: --require-hashes -r requirements.lock
COPY pyproject.toml README.md LICENSE ./
COPY src ./src
RUN python -m pip --disable-pip-version-check wheel --no-cache-dir --no-deps --wheel-dir /wheels . \
 && python -m pip --disable-pip-version-check --python /opt/clawnet/bin/python \
        install --no-cache-dir --no-deps --no-index /wheels/clawnet-*.whl \
 && /opt/clawnet/bin/python -m compileall -q /opt/clawnet/lib

FROM python:3.13-slim
COPY --from=build /opt/clawnet /opt/clawnet
# The number and not a name, so that `runAsNonRoot` can be checked without the image's passwd.
RUN install -d -o 10001 -g 10001 -m 0700 /data
# Everything it writes lies in /data; the rest may be mounted read-only.
ENV PATH=/opt/clawnet/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    HOME=/data \
    CLAWNET_DATA_DIR=/data
USER 10001:10001
WORKDIR /data
VOLUME /data
EXPOSE 8080
STOPSIGNAL SIGTERM
# Asks without a token. /readyz is 503 while the hub cannot store.
HEALTHCHECK --interval=10s --timeout=3s --start-period=60s \
    CMD ["python", "-m", "clawnet.cli.probe"]
ENTRYPOINT ["claw"]
# A container's own loopback reaches nobody: inside it, every address has to be named. Who can
# reach it is decided by -p, and every request needs a token.
CMD ["up", "--bind", "0.0.0.0", "--port", "8080"]
