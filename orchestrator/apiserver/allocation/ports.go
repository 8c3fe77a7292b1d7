package allocation

import (
	"context"
	"errors"
	"fmt"
	"math/big"
	"math/rand/v2"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"github.com/keelson-io/keelson/orchestrator/kinds"
	"github.com/keelson-io/keelson/orchestrator/objectstore"
)

// Ports is a range of ports, both ends in it.
type Ports struct{ First, Last int32 }

func (p Ports) String() string { return fmt.Sprintf("%d-%d", p.First, p.Last) }

func (p Ports) has(port int32) bool { return port >= p.First && port <= p.Last }

// rangeName is the object that has the bits.
const rangeName = "servicenodeports"

// rangeKind is a kind that is stored and not served.
func rangeKind() *kinds.Kind {
	return &kinds.Kind{
		GroupVersionKind: corev1.SchemeGroupVersion.WithKind("RangeAllocation"), Resource: "rangeallocations", Place: "ranges",
		New: func() kinds.Object { return &corev1.RangeAllocation{} }, NewList: func() runtime.Object { return nil },
	}
}

// ports hands out node ports.
type ports struct {
	objects *objectstore.Collection // of RangeAllocations
	all     Ports
}

var (
	errPortTaken = errors.New("provided port is already allocated")
	errPortsFull = errors.New("range is full")
)

// change changes the bits of the ports.
func (p *ports) change(ctx context.Context, f func(bits *big.Int) error) error {
	for {
		_, err := p.objects.Update(ctx, "", rangeName, func(it *objectstore.Item) (kinds.Object, error) {
			r := it.Object.(*corev1.RangeAllocation).DeepCopy()
			if r.Range != p.all.String() {
				r.Range, r.Data = p.all.String(), nil // Repair finds out what is taken
			}
			bits := new(big.Int).SetBytes(r.Data)
			if err := f(bits); err != nil {
				return nil, err
			}
			r.Data = bits.Bytes()
			return r, nil
		})
		if !apierrors.IsNotFound(err) {
			return err
		}
		_, err = p.objects.Create(ctx, &corev1.RangeAllocation{ObjectMeta: metav1.ObjectMeta{Name: rangeName}, Range: p.all.String()})
		if err != nil && !apierrors.IsAlreadyExists(err) {
			return err
		}
	}
}

// take takes ports: those that are given, and for each 0 any. It returns them in the same order.
func (p *ports) take(ctx context.Context, wanted []int32) (got []int32, err error) {
	err = p.change(ctx, func(bits *big.Int) error {
		got = append(got[:0], wanted...)
		for i, port := range got {
			if port == 0 {
				continue
			}
			if !p.all.has(port) {
				return fmt.Errorf("provided port is not in the valid range. The range of valid ports is %s", p.all)
			}
			if bits.Bit(int(port-p.all.First)) == 1 {
				return errPortTaken
			}
			bits.SetBit(bits, int(port-p.all.First), 1)
			got[i] = port
		}
		return p.fill(bits, got)
	})
	return got, err
}

// fill replaces every 0 by a port that is free.
func (p *ports) fill(bits *big.Int, got []int32) error {
	size := int(p.all.Last-p.all.First) + 1
	for i := range got {
		if got[i] != 0 {
			continue
		}
		start, free := rand.IntN(size), -1
		for n := range size {
			if at := (start + n) % size; bits.Bit(at) == 0 {
				free = at
				break
			}
		}
		if free < 0 {
			return errPortsFull
		}
		bits.SetBit(bits, free, 1)
		got[i] = p.all.First + int32(free)
	}
	return nil
}

// release gives ports back.
func (p *ports) release(ctx context.Context, back []int32) error {
	if len(back) == 0 {
		return nil
	}
	return p.change(ctx, func(bits *big.Int) error {
		for _, port := range back {
			if p.all.has(port) {
				bits.SetBit(bits, int(port-p.all.First), 0)
			}
		}
		return nil
	})
}
