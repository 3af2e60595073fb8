# syntax=docker/dockerfile:1
# The backend as a container, to run outside of Vercel:
#   docker build -t backend .
#   docker run -p 3001:3001 -e OIDC_TEAM_SLUG=acme -e OIDC_PROJECT_NAME=storefront -e OIDC_OWNER_ID=team_… backend

FROM rust:1-slim-bookworm AS build
WORKDIR /source
COPY . .
RUN --mount=type=cache,target=/usr/local/cargo/registry --mount=type=cache,target=/source/target \
    cargo build --release --locked --package backend && cp target/release/backend /backend

# glibc, libgcc and the certificate authorities for the fetch of the keys; no shell, no package manager.
FROM gcr.io/distroless/cc-debian12:nonroot
COPY --from=build /backend /backend
USER nonroot
EXPOSE 3001
ENTRYPOINT ["/backend"]
