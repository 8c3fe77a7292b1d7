//go:build invariants

package invariants

// Enabled says whether Check checks.
const Enabled = true
