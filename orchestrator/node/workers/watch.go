package workers

import (
	"context"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"k8s.io/apimachinery/pkg/types"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// quietRelist is the time between looks at a runtime that sends events: they may be lost.
const quietRelist = 30 * time.Second

// watchRuntime wakes the workers of pods whose sandboxes or containers changed: by the runtime's events, and by listing all, often
// while there are no events and seldom while there are.
func (ws *Workers) watchRuntime(ctx context.Context) {
	live := make(chan bool, 1)
	events := make(chan struct{})
	go func() {
		defer close(events)
		ws.followEvents(ctx, live)
	}()
	defer func() { <-events }()
	known := map[string]state{}
	every := ws.cfg.Options.Relist
	timer := ws.cfg.Clock.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case is := <-live:
			every = ws.cfg.Options.Relist
			if is {
				every = max(every, quietRelist)
			}
			timer.Reset(0) // what happened in between
			continue
		case <-timer.C():
		}
		known = ws.relist(ctx, known)
		timer.Reset(every)
	}
}

// state is of a sandbox or a container.
type state struct {
	uid  types.UID
	what int32
}

// relist lists all that the runtime has, and wakes the workers of what is not as it was known.
func (ws *Workers) relist(ctx context.Context, known map[string]state) map[string]state {
	begun := ws.cfg.Clock.Now()
	defer func() { ws.metrics.relists.Observe(ws.cfg.Clock.Now().Sub(begun).Seconds()) }()
	call, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	boxes, err := ws.cfg.Runtime.ListPodSandbox(call, &runtimeapi.ListPodSandboxRequest{})
	if err != nil {
		return known
	}
	list, err := ws.cfg.Runtime.ListContainers(call, &runtimeapi.ListContainersRequest{})
	if err != nil {
		return known
	}
	now := make(map[string]state, len(boxes.Items)+len(list.Containers))
	for _, b := range boxes.Items {
		if uid, ok := owner(b.Labels); ok {
			now[b.Id] = state{uid, int32(b.State)}
		}
	}
	for _, c := range list.Containers {
		if uid, ok := owner(c.Labels); ok {
			now[c.Id] = state{uid, int32(c.State)}
		}
	}
	changed := map[types.UID]bool{}
	for id, s := range now {
		if known[id] != s {
			changed[s.uid] = true
		}
	}
	for id, s := range known {
		if _, there := now[id]; !there {
			changed[s.uid] = true
		}
	}
	for uid := range changed {
		ws.wakeUp(uid)
	}
	return now
}

// followEvents wakes workers by the runtime's events. It says on live whether there are any.
func (ws *Workers) followEvents(ctx context.Context, live chan<- bool) {
	say := func(is bool) {
		select {
		case live <- is:
		case <-ctx.Done():
		}
	}
	for ctx.Err() == nil {
		stream, err := ws.cfg.Runtime.GetContainerEvents(ctx, &runtimeapi.GetEventsRequest{})
		if status.Code(err) == codes.Unimplemented {
			return
		}
		for told := false; err == nil; {
			var e *runtimeapi.ContainerEventResponse
			if e, err = stream.Recv(); err != nil {
				if told {
					say(false)
				}
				break
			}
			if !told {
				told = true
				say(true)
			}
			if uid, ok := owner(e.GetPodSandboxStatus().GetLabels()); ok {
				ws.wakeUp(uid)
			} else if uid := types.UID(e.GetPodSandboxStatus().GetMetadata().GetUid()); uid != "" {
				ws.wakeUp(uid)
			}
		}
		if status.Code(err) == codes.Unimplemented {
			return
		}
		if sleep(ctx, ws.cfg.Clock, startPause) != nil {
			return
		}
	}
}
