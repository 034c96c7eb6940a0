# SPDX-License-Identifier: Apache-2.0
"""Swagger UI's own files (Apache-2.0), gzipped, for `/api/docs`; `scripts/vendor-swagger-ui.sh` puts them here."""
