# SPDX-License-Identifier: Apache-2.0
"""Who is behind a credential, by each kind of credential."""
