package fairness

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/stretchr/testify/require"
	flowcontrolv1 "k8s.io/api/flowcontrol/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"

	"github.com/keelson-io/keelson/orchestrator/apiserver/request"
	"github.com/keelson-io/keelson/orchestrator/kinds"
)

// levelObject is a level with shares, of which it neither lends nor borrows; queues 0: it rejects.
func levelObject(name string, shares, queues, hand, length int32) *flowcontrolv1.PriorityLevelConfiguration {
	l := &flowcontrolv1.LimitedPriorityLevelConfiguration{
		NominalConcurrencyShares: &shares, BorrowingLimitPercent: ptr.To[int32](0),
		LimitResponse: flowcontrolv1.LimitResponse{Type: flowcontrolv1.LimitResponseTypeReject},
	}
	if queues > 0 {
		l.LimitResponse = flowcontrolv1.LimitResponse{
			Type:    flowcontrolv1.LimitResponseTypeQueue,
			Queuing: &flowcontrolv1.QueuingConfiguration{Queues: queues, HandSize: hand, QueueLengthLimit: length},
		}
	}
	return &flowcontrolv1.PriorityLevelConfiguration{
		ObjectMeta: metav1.ObjectMeta{Name: name, UID: types.UID("uid-" + name)},
		Spec:       flowcontrolv1.PriorityLevelConfigurationSpec{Type: flowcontrolv1.PriorityLevelEnablementLimited, Limited: l},
	}
}

// schemaObject sends all of a group to a level, a flow for each user.
func schemaObject(name, group, level string, precedence int32) *flowcontrolv1.FlowSchema {
	return &flowcontrolv1.FlowSchema{
		ObjectMeta: metav1.ObjectMeta{Name: name, UID: types.UID("uid-" + name)},
		Spec: flowcontrolv1.FlowSchemaSpec{
			PriorityLevelConfiguration: flowcontrolv1.PriorityLevelConfigurationReference{Name: level}, MatchingPrecedence: precedence,
			DistinguisherMethod: &flowcontrolv1.FlowDistinguisherMethod{Type: flowcontrolv1.FlowDistinguisherMethodByUserType},
			Rules: []flowcontrolv1.PolicyRulesWithSubjects{{
				Subjects: []flowcontrolv1.Subject{{Kind: flowcontrolv1.SubjectKindGroup, Group: &flowcontrolv1.GroupSubject{Name: group}}},
				ResourceRules: []flowcontrolv1.ResourcePolicyRule{{
					Verbs: []string{"*"}, APIGroups: []string{"*"}, Resources: []string{"*"}, Namespaces: []string{"*"}, ClusterScope: true,
				}},
			}},
		},
	}
}

// limiter has one level that takes all seats but those of the mandatory catch-all level.
func limiter(t testing.TB, seats int, objects ...kinds.Object) *Limiter {
	t.Helper()
	l, err := New(Config{Seats: seats})
	require.NoError(t, err)
	l.Set(objects...)
	return l
}

var getPods = &request.Info{IsResource: true, Verb: "get", Version: "v1", Resource: "pods", Namespace: "ns", Name: "p"}

func user(name string, groups ...string) *request.User {
	return &request.User{Name: name, Groups: groups}
}

func seatsOf(l *Limiter, level string) int {
	return int(testutil.ToFloat64(l.metrics.levels["current_limit_seats"].WithLabelValues(level)))
}

// One flow asks for eight times as many seats as there are, another for as many as there are. Both are served as if the other had half.
func TestFairBetweenFlows(t *testing.T) {
	for _, queues := range []int32{1, 2, 64} {
		t.Run(fmt.Sprint(queues), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				hand := min(queues, 2)
				if queues == 2 {
					hand = 1
				}
				l := limiter(t, 105, levelObject("work", 100, queues, hand, 1000), schemaObject("all", "g", "work", 100))
				require.Equal(t, 100, seatsOf(l, "work"))
				ctx, cancel := context.WithCancel(t.Context())
				served := map[string]int{}
				var mu sync.Mutex
				var wg sync.WaitGroup
				run := func(name string, n int) {
					for range n {
						wg.Go(func() {
							for ctx.Err() == nil {
								seat, err := l.Enter(ctx, user(name, "g"), getPods, 1)
								if err != nil {
									continue
								}
								time.Sleep(100 * time.Millisecond)
								l.Leave(&seat)
								mu.Lock()
								served[name]++
								mu.Unlock()
							}
						})
					}
				}
				run("elephant", 800)
				mouse := stranger(l)
				run(mouse, 100)
				time.Sleep(20 * time.Second)
				cancel()
				wg.Wait()
				synctest.Wait()
				total := served["elephant"] + served[mouse]
				require.InDelta(t, 100*200, total, 1000, "all seats are used")
				part := float64(served[mouse]) / float64(total)
				if queues == 1 { // no fairness: as many as ask
					require.InDelta(t, 1.0/9, part, 0.05)
				} else {
					require.InDelta(t, 0.5, part, 0.05)
				}
				require.Zero(t, l.levels["work"].inUse)
				require.Empty(t, l.levels["work"].active)
			})
		})
	}
}

// stranger is a user whose flow has none of the elephant's queues.
func stranger(l *Limiter) string {
	s := l.config.Load().classify(user("", "g"), getPods)
	if s.level.dealer == nil {
		return "mouse"
	}
	hand := func(name string) []int {
		return s.level.dealer.DealIntoHand(s.flow(user(name, "g"), getPods), make([]int, 0, 8))
	}
	elephant := hand("elephant")
	for n := 0; ; n++ {
		name := "mouse-" + strconv.Itoa(n)
		if !slices.ContainsFunc(hand(name), func(card int) bool { return slices.Contains(elephant, card) }) {
			return name
		}
	}
}

// Random requests, of which some are given up, never exceed the limit and leave nothing behind.
func TestLimitIsKept(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := limiter(t, 25, levelObject("work", 20, 8, 2, 5), schemaObject("all", "g", "work", 100))
		limit := seatsOf(l, "work")
		require.Equal(t, 20, limit)
		var wg sync.WaitGroup
		var mu sync.Mutex
		inUse, most, done, refused := 0, 0, 0, 0
		for n := range 400 {
			wg.Go(func() {
				r := rand.New(rand.NewPCG(1, uint64(n)))
				for range 50 {
					ctx, cancel := context.WithTimeout(t.Context(), time.Duration(r.IntN(2000))*time.Millisecond)
					seat, err := l.Enter(ctx, user(strconv.Itoa(r.IntN(20)), "g"), getPods, 1+r.IntN(4))
					mu.Lock()
					if err != nil {
						refused++
					} else {
						done++
						inUse += seat.width
						most = max(most, inUse)
					}
					mu.Unlock()
					time.Sleep(time.Duration(r.IntN(30)) * time.Millisecond)
					if err == nil {
						mu.Lock()
						inUse -= seat.width
						mu.Unlock()
						l.Leave(&seat)
					}
					cancel()
				}
			})
		}
		wg.Wait()
		require.LessOrEqual(t, most, limit)
		require.Greater(t, most, limit/2)
		require.Greater(t, done, 1000)
		require.Greater(t, refused, 100)
		work := l.levels["work"].level
		require.True(t, work.idle())
		require.Zero(t, work.inUse)
		require.Empty(t, work.active)
		require.Empty(t, work.backlog)
		require.Zero(t, work.clock.r)
		m := l.metrics.of("work", "all")
		require.Zero(t, testutil.ToFloat64(m.executing))
		require.Zero(t, testutil.ToFloat64(m.seats))
		require.Zero(t, testutil.ToFloat64(m.queued))
		require.Zero(t, testutil.ToFloat64(m.queuedSeats))
		require.InDelta(t, done, testutil.ToFloat64(m.dispatched), 0)
	})
}

func TestReasons(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := limiter(t, 7, levelObject("queue", 1, 1, 1, 2), levelObject("reject", 1, 0, 0, 0),
			schemaObject("q", "q", "queue", 100), schemaObject("r", "r", "reject", 101))
		require.Equal(t, 1, seatsOf(l, "queue"))
		require.Equal(t, 1, seatsOf(l, "reject"))
		refused := func(schema, level, reason string) float64 {
			return testutil.ToFloat64(l.metrics.rejected.WithLabelValues(level, schema, reason))
		}
		r, err := l.Enter(t.Context(), user("u", "r"), getPods, 1)
		require.NoError(t, err)
		_, err = l.Enter(t.Context(), user("u", "r"), getPods, 1)
		require.ErrorIs(t, err, ErrRejected)
		require.InDelta(t, 1, refused("r", "reject", "concurrency-limit"), 0)
		l.Leave(&r)

		q, err := l.Enter(t.Context(), user("u", "q"), getPods, 1)
		require.NoError(t, err)
		gone, leave := context.WithCancel(t.Context())
		late, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		defer cancel()
		begun := time.Now()
		var wg sync.WaitGroup
		wg.Go(func() {
			_, err := l.Enter(gone, user("u", "q"), getPods, 1)
			require.ErrorIs(t, err, ErrRejected)
			require.Equal(t, time.Second, time.Since(begun))
		})
		wg.Go(func() {
			_, err := l.Enter(late, user("u", "q"), getPods, 1)
			require.ErrorIs(t, err, ErrRejected)
			require.Equal(t, 5*time.Second, time.Since(begun), "a quarter of its time")
		})
		synctest.Wait()
		_, err = l.Enter(t.Context(), user("u", "q"), getPods, 1)
		require.ErrorIs(t, err, ErrRejected)
		require.InDelta(t, 1, refused("q", "queue", "queue-full"), 0)
		time.Sleep(time.Second)
		leave()
		wg.Wait()
		require.InDelta(t, 1, refused("q", "queue", "cancelled"), 0)
		require.InDelta(t, 1, refused("q", "queue", "time-out"), 0)
		_, err = l.Enter(t.Context(), user("u", "q"), getPods, 1)
		require.ErrorIs(t, err, ErrRejected)
		require.Equal(t, 20*time.Second, time.Since(begun), "without a deadline it waits for 15 s")
		l.Leave(&q)
		require.True(t, l.levels["queue"].idle())
	})
}

// What is exempt has no limit, and what the mandatory schemas say holds without any object.
func TestMandatory(t *testing.T) {
	l := limiter(t, 10)
	for range 100 {
		_, err := l.Enter(t.Context(), user("admin", "system:masters", "system:authenticated"), getPods, 5)
		require.NoError(t, err)
	}
	n := 0
	for range 100 {
		if _, err := l.Enter(t.Context(), user("jane", "system:authenticated"), getPods, 1); err == nil {
			n++
		}
	}
	require.Equal(t, 10, n, "the level catch-all has all seats")
}

// Objects take effect as they come and go, for those who wait too.
func TestConfigurationChanges(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		work := levelObject("work", 5, 1, 1, 50)
		l := limiter(t, 10, work, schemaObject("all", "g", "work", 100))
		require.Equal(t, 5, seatsOf(l, "work"))
		var seats []Seat
		var mu sync.Mutex
		for range 30 {
			go func() {
				s, err := l.Enter(t.Context(), user("u", "g"), getPods, 1)
				if err == nil {
					mu.Lock()
					seats = append(seats, s)
					mu.Unlock()
				}
			}()
		}
		synctest.Wait()
		require.Len(t, seats, 5)
		more := work.DeepCopy()
		more.Spec.Limited.NominalConcurrencyShares = ptr.To[int32](45)
		l.Set(more)
		require.Equal(t, 9, seatsOf(l, "work"))
		synctest.Wait()
		require.Len(t, seats, 9)

		// Without its level the schema is out of use; who waits in the level is served, then the level is gone.
		l.Remove(more)
		require.Equal(t, "catch-all", l.config.Load().classify(user("u", "g"), getPods).object.Name)
		require.Len(t, l.Danglings(time.Now()), 1)
		require.Equal(t, flowcontrolv1.ConditionTrue, l.Danglings(time.Now())[0].Condition.Status)
		for range 30 {
			mu.Lock()
			s := seats[0]
			seats = seats[1:]
			mu.Unlock()
			l.Leave(&s)
			synctest.Wait()
		}
		require.Empty(t, seats)
		require.NotNil(t, l.levels["work"])
		ctx, cancel := context.WithCancel(t.Context())
		go l.Run(ctx)
		time.Sleep(AdjustEvery + time.Second)
		cancel()
		synctest.Wait()
		require.Nil(t, l.levels["work"])
		require.Equal(t, 10, seatsOf(l, "catch-all"))
	})
}

// A busy level borrows what an idle one lends, and gives it back.
func TestBorrowing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		busy, idle := levelObject("busy", 50, 1, 1, 500), levelObject("idle", 45, 1, 1, 500)
		busy.Spec.Limited.BorrowingLimitPercent, idle.Spec.Limited.LendablePercent = nil, ptr.To[int32](80)
		l := limiter(t, 100, busy, idle, schemaObject("b", "b", "busy", 100), schemaObject("i", "i", "idle", 101))
		ctx, cancel := context.WithCancel(t.Context())
		go l.Run(ctx)
		var wg sync.WaitGroup
		load := func(ctx context.Context, group string, n int) {
			for range n {
				wg.Go(func() {
					for ctx.Err() == nil {
						if s, err := l.Enter(ctx, user("u", group), getPods, 1); err == nil {
							time.Sleep(50 * time.Millisecond)
							l.Leave(&s)
						}
					}
				})
			}
		}
		load(ctx, "b", 300)
		time.Sleep(25 * time.Second)
		require.GreaterOrEqual(t, seatsOf(l, "busy"), 80)
		require.GreaterOrEqual(t, seatsOf(l, "idle"), 9, "what it does not lend")
		require.LessOrEqual(t, seatsOf(l, "busy")+seatsOf(l, "idle")+seatsOf(l, "catch-all"), 101)
		load(ctx, "i", 300)
		time.Sleep(25 * time.Second)
		require.GreaterOrEqual(t, seatsOf(l, "idle"), 45, "its own")
		cancel()
		wg.Wait()
	})
}

func TestAllocate(t *testing.T) {
	for name, c := range map[string]struct {
		sum    float64
		claims []claim
		want   []float64
	}{
		"in proportion":    {30, []claim{{10, 0, 100}, {20, 0, 100}}, []float64{10, 20}},
		"a lower bound":    {30, []claim{{10, 10, 100}, {80, 0, 100}}, []float64{10, 20}},
		"an upper bound":   {30, []claim{{10, 0, 5}, {10, 0, 100}, {10, 0, 100}}, []float64{5, 12.5, 12.5}},
		"no targets":       {10, []claim{{0, 0, 100}, {0, 0, 100}}, []float64{5, 5}},
		"less than bounds": {100, []claim{{10, 0, 20}, {10, 0, 20}}, []float64{20, 20}},
	} {
		t.Run(name, func(t *testing.T) {
			got, _ := allocate(c.sum, c.claims)
			require.InDeltaSlice(t, c.want, got, 0.001)
		})
	}
}

func TestRetryGrowsAndFalls(t *testing.T) {
	now := time.Unix(1000, 0)
	l := newLevel("l", now)
	require.Equal(t, 1, l.rejected(now))
	for s := range 40 {
		for range 100 {
			l.rejected(now.Add(time.Duration(s) * time.Second))
		}
	}
	require.Equal(t, 32, l.rejected(now.Add(64*time.Second)))
	require.Equal(t, 1, l.rejected(now.Add(time.Hour)))
}

// serve calls the handler as a user.
func serve(h http.Handler, u *request.User, i *request.Info) *httptest.ResponseRecorder {
	r := httptest.NewRequest(http.MethodGet, "/", nil)
	r = r.WithContext(request.WithUser(request.WithInfo(r.Context(), i), u))
	w := httptest.NewRecorder()
	func() {
		defer func() { _ = recover() }()
		h.ServeHTTP(w, r)
	}()
	return w
}

func TestHandler(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := limiter(t, 6, levelObject("work", 1, 0, 0, 0), schemaObject("all", "g", "work", 100))
		require.Equal(t, 1, seatsOf(l, "work"))
		block, watching := make(chan struct{}), make(chan struct{})
		do := func(http.ResponseWriter, *http.Request) {}
		g := &Gate{Limiter: l, Apart: func(i *request.Info) bool { return i.Subresource == "exec" }}
		h := g.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { do(w, r) }))
		jane := user("jane", "g")

		w := serve(h, jane, getPods)
		require.Equal(t, http.StatusOK, w.Code)
		require.Equal(t, "uid-all", w.Header().Get(flowcontrolv1.ResponseHeaderMatchedFlowSchemaUID))
		require.Equal(t, "uid-work", w.Header().Get(flowcontrolv1.ResponseHeaderMatchedPriorityLevelConfigurationUID))

		// A panic gives the seat back.
		do = func(http.ResponseWriter, *http.Request) { panic("on purpose") }
		serve(h, jane, getPods)
		require.True(t, l.levels["work"].idle())
		watch := *getPods
		watch.Verb = "watch"
		serve(h, jane, &watch)
		require.True(t, l.levels["work"].idle())

		// A watch has a seat until it has begun.
		do = func(_ http.ResponseWriter, r *http.Request) {
			<-block
			Begun(r.Context())
			<-watching
		}
		go serve(h, jane, &watch)
		synctest.Wait()
		require.False(t, l.levels["work"].idle())
		do = func(http.ResponseWriter, *http.Request) {}
		w = serve(h, jane, getPods)
		require.Equal(t, http.StatusTooManyRequests, w.Code)
		require.Equal(t, "1", w.Header().Get("Retry-After"))
		require.Equal(t, "Too many requests, please try again later.\n", w.Body.String())
		require.Equal(t, "uid-all", w.Header().Get(flowcontrolv1.ResponseHeaderMatchedFlowSchemaUID))
		exec := *getPods
		exec.Subresource = "exec"
		require.Equal(t, http.StatusOK, serve(h, jane, &exec).Code)
		require.Equal(t, http.StatusOK, serve(h, user("admin", "system:masters"), getPods).Code)
		close(block)
		synctest.Wait()
		require.True(t, l.levels["work"].idle())
		require.Equal(t, http.StatusOK, serve(h, jane, getPods).Code)
		close(watching)
		synctest.Wait()
		require.True(t, l.levels["work"].idle())
	})
}

func BenchmarkHandler(b *testing.B) {
	l := limiter(b, 600)
	for _, d := range Defaults() {
		l.Set(d.Object)
	}
	g := &Gate{Limiter: l, Apart: func(*request.Info) bool { return false }}
	h := g.Handler(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	for name, u := range map[string]*request.User{
		"exempt":         user("admin", "system:masters"),
		"serviceaccount": user("system:serviceaccount:ns:a", "system:serviceaccounts", "system:authenticated"),
		"user":           user("jane", "system:authenticated"),
	} {
		r := httptest.NewRequest(http.MethodGet, "/", nil)
		r = r.WithContext(request.WithUser(request.WithInfo(r.Context(), getPods), u))
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			w := httptest.NewRecorder()
			for b.Loop() {
				h.ServeHTTP(w, r)
			}
			require.Equal(b, http.StatusOK, w.Code)
		})
	}
}
