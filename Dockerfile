# docker build -t svhn-vae . && docker run --rm -v "$PWD/outputs:/app/outputs" svhn-vae      runs make demo
FROM python:3.12-slim
RUN apt-get update && apt-get install --yes --no-install-recommends make && rm -rf /var/lib/apt/lists/*
WORKDIR /app
ENV PIP_NO_CACHE_DIR=1
COPY pyproject.toml README.md LICENSE Makefile ./
COPY conf conf
COPY src src
RUN make .venv/installed
CMD ["make", "demo"]
