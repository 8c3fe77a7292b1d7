//go:build linux

package runtime

import (
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// backlog is how many events may wait for a client before it is cut off: it then lists, as after any broken stream.
const backlog = 4096

// hub sends events to those who listen.
type hub struct {
	describe func(sandbox string) (*runtimeapi.PodSandboxStatus, []*runtimeapi.ContainerStatus)

	mu        sync.Mutex
	listeners map[chan *runtimeapi.ContainerEventResponse]bool
	closed    chan struct{}
	once      sync.Once
}

func newHub() *hub {
	return &hub{listeners: map[chan *runtimeapi.ContainerEventResponse]bool{}, closed: make(chan struct{})}
}

// publish tells of something that happened to a container or to a sandbox, which is told as the container of that ID.
func (h *hub) publish(id, sandbox string, kind runtimeapi.ContainerEventType) {
	h.mu.Lock()
	none := len(h.listeners) == 0
	h.mu.Unlock()
	if none {
		return
	}
	e := &runtimeapi.ContainerEventResponse{ContainerId: id, ContainerEventType: kind, CreatedAt: time.Now().UnixNano()}
	e.PodSandboxStatus, e.ContainersStatuses = h.describe(sandbox)
	h.mu.Lock()
	defer h.mu.Unlock()
	for l := range h.listeners {
		select {
		case l <- e:
		default:
			delete(h.listeners, l)
			close(l)
		}
	}
}

// GetContainerEvents streams what happens from now on.
func (h *hub) GetContainerEvents(_ *runtimeapi.GetEventsRequest, out grpc.ServerStreamingServer[runtimeapi.ContainerEventResponse]) error {
	l := make(chan *runtimeapi.ContainerEventResponse, backlog)
	h.mu.Lock()
	h.listeners[l] = true
	h.mu.Unlock()
	defer func() {
		h.mu.Lock()
		defer h.mu.Unlock()
		delete(h.listeners, l)
	}()
	if err := out.SendHeader(nil); err != nil { // the client knows by it that nothing is missed from here on
		return err
	}
	for {
		select {
		case <-out.Context().Done():
			return nil
		case <-h.closed:
			return status.Error(codes.Unavailable, "runtime: it ends")
		case e, ok := <-l:
			if !ok {
				return status.Error(codes.ResourceExhausted, "runtime: the client is too slow for the events")
			}
			if err := out.Send(e); err != nil {
				return err
			}
		}
	}
}

// close ends all streams.
func (h *hub) close() { h.once.Do(func() { close(h.closed) }) }
