//go:build linux && cgo

package keeper

import (
	"errors"
	"fmt"
	"log"
	"os"
	"runtime/debug"

	"github.com/keelson-io/keelson/orchestrator/node/shim/wire"
)

// answer serves one connection.
func (k *Keeper) answer(conn wire.Conn) {
	defer func() { _ = conn.Close() }()
	defer k.idle.Reset(quiet)
	var req wire.Request
	files, err := conn.Receive(&req)
	if err != nil {
		return // it hung up, or is no client
	}
	defer func() {
		for _, f := range files {
			_ = f.Close()
		}
	}()
	defer func() {
		if p := recover(); p != nil { // a pod must not lose its shim for one bad request
			log.Printf("%s: panic: %v\n%s", req.Op, p, debug.Stack())
			_ = conn.Send(failure(fmt.Errorf("panic: %v", p)))
		}
	}()
	if len(files) != req.Streams.Count() {
		_ = conn.Send(failure(fmt.Errorf("%d streams were announced and %d sent", req.Streams.Count(), len(files))))
		return
	}
	switch req.Op {
	case wire.OpEvents:
		k.events(conn)
		return
	case wire.OpExec:
		err = k.exec(conn, &req, files)
	case wire.OpAttach:
		err = k.attach(conn, &req, files)
		files = nil // are the container's now
	default:
		var reply wire.Reply
		if reply, err = k.call(&req); err == nil {
			_ = conn.Send(reply)
		}
	}
	if err != nil {
		_ = conn.Send(failure(err))
	}
	if req.Op == wire.OpShutdown && err == nil {
		close(k.down)
	}
}

func failure(err error) wire.Reply {
	reply := wire.Reply{Error: err.Error()}
	if reply.Error == "" {
		reply.Error = "unknown error"
	}
	var coded *codeError
	if errors.As(err, &coded) {
		reply.Code = coded.code
	}
	return reply
}

// call serves what has one answer.
func (k *Keeper) call(req *wire.Request) (reply wire.Reply, err error) {
	switch req.Op {
	case wire.OpPing:
		reply.Pid = os.Getpid()
	case wire.OpSandbox:
		if req.Sandbox == nil {
			return reply, errors.New("sandbox: nothing is asked for")
		}
		reply.Sandbox, err = k.makeSandbox(req.Sandbox)
	case wire.OpCreate:
		if req.Container == nil {
			return reply, errors.New("create: nothing is asked for")
		}
		reply.Pid, err = k.create(req.Container)
	case wire.OpStates:
		k.mu.Lock()
		reply.States = k.states()
		k.mu.Unlock()
	case wire.OpDelete:
		err = k.remove(req.ID)
	case wire.OpShutdown:
		err = k.shutdown()
	default:
		return k.callContainer(req)
	}
	return reply, err
}

// callContainer serves what concerns a container that is there.
func (k *Keeper) callContainer(req *wire.Request) (reply wire.Reply, err error) {
	c, err := k.find(req.ID)
	if err != nil {
		return reply, err
	}
	switch req.Op {
	case wire.OpStart:
		err = k.start(c)
	case wire.OpSignal:
		err = k.signal(c, req.Signal)
	case wire.OpState:
		k.mu.Lock()
		state := c.state
		k.mu.Unlock()
		reply.State = &state
	case wire.OpReopen:
		err = c.stdio.log.Reopen()
	case wire.OpUpdate:
		if req.Resources == nil {
			return reply, errors.New("update: no resources are given")
		}
		err = k.update(c, req.Resources)
	case wire.OpStats:
		reply.Stats, err = c.stats()
	default:
		err = fmt.Errorf("unknown operation %q", req.Op)
	}
	return reply, err
}

// events tells a client every change until it hangs up.
func (k *Keeper) events(conn wire.Conn) {
	f := k.subscribe()
	defer k.unsubscribe(f)
	gone := hangup(conn)
	for {
		for _, s := range f.take() {
			if conn.Send(wire.Reply{State: &s}) != nil {
				return
			}
		}
		select {
		case <-f.wake:
		case <-gone:
			return
		case <-k.down:
			return
		}
	}
}

// hangup is closed when the client does, or the connection is closed here.
func hangup(conn wire.Conn) <-chan struct{} {
	gone := make(chan struct{})
	go func() {
		defer close(gone)
		var b [1]byte
		for {
			if _, err := conn.Read(b[:]); err != nil {
				return
			}
		}
	}()
	return gone
}
