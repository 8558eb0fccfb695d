//go:build race || invariants

package check

// Enabled reports whether the build carries the checks.
const Enabled = true
