package match

import (
	"context"
	"fmt"

	"github.com/keelson-io/keelson/orchestrator/kinds"
)

// Served is the Versions of kinds that are served: those are equivalent whose objects are stored in one place.
type Served func() []*kinds.Kind

// Equivalents returns all kinds at a kind's place.
func (s Served) Equivalents(k *kinds.Kind) (out []*kinds.Kind) {
	for _, other := range s() {
		if other.Place == k.Place {
			out = append(out, other)
		}
	}
	return out
}

// Convert takes an object to the stored version and on to the one wanted.
func (s Served) Convert(_ context.Context, o kinds.Object, from, to *kinds.Kind) (kinds.Object, error) {
	if from.GroupVersionKind == to.GroupVersionKind {
		return o, nil
	}
	var err error
	if from.Stored != nil {
		if o, err = from.Stored.To(o); err != nil {
			return nil, fmt.Errorf("convert %s: %w", from.GroupVersionKind, err)
		}
	}
	if to.Stored == nil {
		return o, nil
	}
	out, err := to.Stored.From(o)
	if err == nil && len(out) != 1 {
		err = fmt.Errorf("%d objects came of one", len(out))
	}
	if err != nil {
		return nil, fmt.Errorf("convert to %s: %w", to.GroupVersionKind, err)
	}
	return out[0], nil
}
