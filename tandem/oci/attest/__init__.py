"""Statements about an image: bill of materials, provenance, signatures.

Both statements are OCI artifacts that refer to the image's digest (`subject`). Where a registry has
no referrers API (CNCF distribution 2.8, an image layout folder), they are listed under the tag
`sha256-DIGEST`, the fallback of the distribution specification.
"""
