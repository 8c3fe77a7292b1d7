//go:build linux

package runtime

import "time"

// OpenPatient is Open with a time of its own for shims to end.
func OpenPatient(cfg Config, patience time.Duration) (*Runtime, error) { return open(cfg, patience) }
