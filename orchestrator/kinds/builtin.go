package kinds

import "slices"

// Builtin returns all built-in kinds.
func Builtin() []*Kind {
	return slices.Concat(coordinationKinds(), schedulingKinds())
}
