package e2e

import (
	"context"
	"fmt"
	"math"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"
	"github.com/stretchr/testify/require"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
)

// verb is what an operation of a history does with its key.
type verb int

const (
	get verb = iota
	put
	swap // puts if the key has the expected value, reads otherwise
)

// input and output of an operation. A missing key has the value "".
type (
	input struct {
		verb      verb
		key       string
		old, next string
	}
	output struct {
		unknown bool // nobody knows whether it was executed
		value   string
		swapped bool
	}
)

// register is one key as porcupine sees it.
func register() porcupine.Model {
	return porcupine.Model{
		Partition: func(ops []porcupine.Operation) [][]porcupine.Operation {
			byKey := map[string][]porcupine.Operation{}
			for _, op := range ops {
				k := op.Input.(input).key
				byKey[k] = append(byKey[k], op)
			}
			var out [][]porcupine.Operation
			for _, part := range byKey {
				out = append(out, part)
			}
			return out
		},
		Init: func() any { return "" },
		Step: func(state, in, out any) (bool, any) { return step(state.(string), in.(input), out.(output)) },
		DescribeOperation: func(in, out any) string {
			return fmt.Sprintf("%+v -> %+v", in, out)
		},
	}
}

func step(state string, in input, out output) (bool, any) {
	switch in.verb {
	case get:
		return out.value == state, state
	case put:
		return true, in.next
	}
	matches := in.old == state
	if matches {
		return out.unknown || out.swapped, in.next
	}
	return out.unknown || !out.swapped && out.value == state, state
}

// recorder runs clients and records what they did.
type recorder struct {
	begin  time.Time
	cancel context.CancelFunc
	wg     sync.WaitGroup

	mu  sync.Mutex
	ops []porcupine.Operation
}

// record starts clients, each of which talks to one member at a time.
func record(t testing.TB, clients int, targets []services) *recorder {
	ctx, cancel := context.WithCancel(context.Background())
	r := &recorder{begin: time.Now(), cancel: cancel}
	for id := range clients {
		r.wg.Go(func() { r.client(ctx, id, targets) })
	}
	t.Cleanup(func() { cancel(); r.wg.Wait() })
	return r
}

// client makes one operation after another. Keys change all the time, so that a lost answer, which makes a history hard
// to judge, concerns a short one.
func (r *recorder) client(ctx context.Context, id int, targets []services) {
	seen := map[string]string{}
	s := targets[id%len(targets)]
	for n := 0; ctx.Err() == nil; n++ {
		if n%20 == 19 {
			s = targets[rand.IntN(len(targets))]
		}
		key := fmt.Sprintf("r/%d/%d", time.Since(r.begin)/(2*time.Second), rand.IntN(3))
		in := input{verb: verb(rand.IntN(3)), key: key, old: seen[key], next: fmt.Sprintf("%d.%d", id, n)}
		call := time.Since(r.begin)
		cctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 1500*time.Millisecond)
		out, err := perform(cctx, s, in)
		cancel()
		end := int64(time.Since(r.begin))
		if err == nil {
			seen[key] = out.value
		} else {
			s = targets[rand.IntN(len(targets))]
			end, out = math.MaxInt64, output{unknown: true}
			pause(ctx, 50*time.Millisecond)
		}
		if err == nil || in.verb != get {
			r.mu.Lock()
			r.ops = append(r.ops, porcupine.Operation{ClientId: id, Input: in, Call: int64(call), Output: out, Return: end})
			r.mu.Unlock()
		}
		pause(ctx, time.Millisecond)
	}
}

func perform(ctx context.Context, s services, in input) (output, error) {
	switch in.verb {
	case get:
		r, err := s.Range(ctx, &pb.RangeRequest{Key: []byte(in.key)})
		return output{value: first(r)}, err
	case put:
		_, err := s.Put(ctx, &pb.PutRequest{Key: []byte(in.key), Value: []byte(in.next)})
		return output{value: in.next}, err
	}
	cmp := &pb.Compare{Key: []byte(in.key), Target: pb.Compare_VALUE, TargetUnion: &pb.Compare_Value{Value: []byte(in.old)}}
	if in.old == "" {
		cmp = &pb.Compare{Key: []byte(in.key), Target: pb.Compare_VERSION, TargetUnion: &pb.Compare_Version{}}
	}
	r, err := s.Txn(ctx, &pb.TxnRequest{
		Compare: []*pb.Compare{cmp},
		Success: []*pb.RequestOp{{Request: &pb.RequestOp_RequestPut{RequestPut: &pb.PutRequest{Key: []byte(in.key), Value: []byte(in.next)}}}},
		Failure: []*pb.RequestOp{{Request: &pb.RequestOp_RequestRange{RequestRange: &pb.RangeRequest{Key: []byte(in.key)}}}},
	})
	if err != nil {
		return output{}, err
	}
	if r.Succeeded {
		return output{swapped: true, value: in.next}, nil
	}
	return output{value: first(r.Responses[0].GetResponseRange())}, nil
}

func first(r *pb.RangeResponse) string {
	if len(r.GetKvs()) == 0 {
		return ""
	}
	return string(r.Kvs[0].Value)
}

// judge stops the clients and has the history judged.
func (r *recorder) judge(t *testing.T) {
	t.Helper()
	r.cancel()
	r.wg.Wait()
	lost, swaps := 0, 0
	for _, op := range r.ops {
		if op.Output.(output).unknown {
			lost++
		}
		if op.Output.(output).swapped {
			swaps++
		}
	}
	t.Logf("%d operations, %d swaps that succeeded, %d without an answer", len(r.ops), swaps, lost)
	require.Greater(t, len(r.ops), 100)
	require.Positive(t, swaps)
	verdict := porcupine.CheckOperationsTimeout(register(), r.ops, 2*time.Minute)
	require.Equal(t, porcupine.Ok, verdict, "the history is not linearizable")
}
