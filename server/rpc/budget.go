package rpc

import (
	"context"
	"errors"
	"runtime"

	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/proto"

	"github.com/keelson-io/keelson/server/fairness"
)

// Budget bounds the bytes of the responses that are encoded and not yet written to a connection. Those below uncounted bytes
// are too many and too small to be looked at. A nil Budget has no bound.
type Budget struct {
	lane *fairness.Lane // of bytes
	pool mem.BufferPool
}

// uncounted is the size of a response below which it does not count. It is above gRPC's threshold of pooling, so that gRPC
// says when it is done with a buffer that counts.
const uncounted = 4 << 10

// NewBudget makes a Budget of a lane of bytes; nil if the lane is.
func NewBudget(lane *fairness.Lane) *Budget {
	if lane == nil {
		return nil
	}
	// gRPC's own pool gives a megabyte to whom asks for 33 kB.
	pool, err := mem.NewBinaryTieredBufferPool(8, 12, 13, 14, 15, 16, 17, 18, 19, 20)
	if err != nil {
		pool = mem.DefaultBufferPool()
	}
	return &Budget{lane, pool}
}

// errNoRoom says that a response does not fit the budget now: room.wait waits until it does.
var errNoRoom = errors.New("rpc: no room for the response")

// room is what a response has of the budget, until wrap hands it on.
type room struct {
	budget *Budget
	ticket fairness.Ticket
	has    int // bytes; 0: nothing
	need   int // what wait waits for
}

// take takes room for a response. errNoRoom.
func (r *room) take(size int) error {
	if r.budget == nil || size < uncounted || r.has >= size {
		return nil
	}
	r.drop()
	ticket, ok := r.budget.lane.Try(int64(size))
	if !ok {
		r.need = size
		return errNoRoom
	}
	r.ticket, r.has = ticket, size
	return nil
}

// wait waits for the room that take did not find.
func (r *room) wait(ctx context.Context, user string) (err error) {
	if r.ticket, err = wait(ctx, r.budget.lane, user, int64(r.need)); err == nil {
		r.has = r.need
	}
	return err
}

// drop returns what wrap did not hand on.
func (r *room) drop() {
	if r.has > 0 {
		r.ticket.Leave(0)
		r.ticket, r.has = fairness.Ticket{}, 0
	}
}

// buffer is memory for a response for which room was taken.
func (r *room) buffer(size int) *[]byte { return r.pool().Get(size) }

func (r *room) pool() mem.BufferPool {
	if r.budget == nil {
		return mem.DefaultBufferPool()
	}
	return r.budget.pool
}

// wrap makes a response of an encoded buffer. Its room is returned when gRPC is done with it.
func (r *room) wrap(buf *[]byte) mem.BufferSlice {
	if r.has == 0 {
		return mem.BufferSlice{mem.NewBuffer(buf, r.pool())}
	}
	h := &hold{pool: r.budget.pool, ticket: r.ticket.Shrink(int64(len(*buf)))}
	r.ticket, r.has = fairness.Ticket{}, 0
	h.lost = runtime.AddCleanup(h, func(t fairness.Ticket) { t.Leave(0) }, h.ticket)
	return mem.BufferSlice{mem.NewBuffer(buf, h)}
}

// hold is the room of a response that gRPC has. It is the pool to which gRPC returns the buffer. gRPC forgets buffers of
// connections that end; then the garbage collector returns the room.
type hold struct {
	pool   mem.BufferPool
	ticket fairness.Ticket
	lost   runtime.Cleanup
}

// Get is mem.BufferPool.
func (h *hold) Get(length int) *[]byte { return h.pool.Get(length) }

// Put is mem.BufferPool.
func (h *hold) Put(buf *[]byte) {
	h.lost.Stop()
	h.pool.Put(buf)
	h.ticket.Leave(0)
	runtime.KeepAlive(h)
}

// encodedMessage is a response with a large message.
type encodedMessage struct {
	proto.Message
	data mem.BufferSlice
}

// messageOf is the message in a response that is encoded already, or the response itself.
func messageOf(resp any) any {
	if e, ok := resp.(*encodedMessage); ok {
		return e.Message
	}
	return resp
}

// MarshalWire is WireMarshaler.
func (e *encodedMessage) MarshalWire() (mem.BufferSlice, error) { return e.data, nil }

// encode encodes a message that may be large, when there is room for it. user tells who calls, if that must be known.
func (b *Budget) encode(ctx context.Context, user func(context.Context) string, m proto.Message) (any, error) {
	if b == nil {
		return m, nil
	}
	size := proto.Size(m)
	if size < uncounted {
		return m, nil
	}
	r := room{budget: b}
	defer r.drop()
	if r.take(size) != nil {
		if err := r.wait(ctx, user(ctx)); err != nil {
			return nil, err
		}
	}
	buf := r.buffer(size)
	out, err := proto.MarshalOptions{UseCachedSize: true}.MarshalAppend((*buf)[:0], m)
	if err != nil {
		return nil, err
	}
	*buf = out
	return &encodedMessage{m, r.wrap(buf)}, nil
}
