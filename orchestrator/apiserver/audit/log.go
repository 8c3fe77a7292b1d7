package audit

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync"

	"github.com/google/uuid"
	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	utilnet "k8s.io/apimachinery/pkg/util/net"
	auditv1 "k8s.io/apiserver/pkg/apis/audit/v1"

	"github.com/keelson-io/keelson/internal/clock"
	"github.com/keelson-io/keelson/orchestrator/apiserver/request"
	"github.com/keelson-io/keelson/orchestrator/apiserver/rights"
)

// Config is what a Log is made of.
type Config struct {
	// Policy is what is written; nil: nothing.
	Policy *Policy
	// Writer gets a line for each event; nil: nothing is written.
	Writer io.Writer
	// LongRunning says which requests have a stage ResponseStarted; nil: LongRunning of this package.
	LongRunning func(*request.Info) bool
	Clock       clock.Clock
	// NewID makes IDs of requests; nil: random ones.
	NewID    func() string
	Registry prometheus.Registerer
	Logger   *zap.Logger
}

// Log writes events.
type Log struct {
	cfg    Config
	mu     sync.Mutex // for the writer
	events prometheus.Counter
	errors prometheus.Counter
	levels *prometheus.CounterVec
}

// New makes a Log.
func New(cfg Config) (*Log, error) {
	if cfg.LongRunning == nil {
		cfg.LongRunning = LongRunning
	}
	if cfg.NewID == nil {
		cfg.NewID = uuid.NewString
	}
	if cfg.Clock == nil {
		cfg.Clock = clock.Real
	}
	if cfg.Logger == nil {
		cfg.Logger = zap.NewNop()
	}
	l := &Log{
		cfg:    cfg,
		events: prometheus.NewCounter(prometheus.CounterOpts{Name: "apiserver_audit_event_total", Help: "Audit events that were written."}),
		errors: prometheus.NewCounter(prometheus.CounterOpts{Name: "apiserver_audit_error_total", Help: "Audit events that could not be written."}),
		levels: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "apiserver_audit_level_total", Help: "Requests by the level of their audit events."}, []string{"level"}),
	}
	if cfg.Registry != nil {
		for _, c := range []prometheus.Collector{l.events, l.errors, l.levels} {
			if err := cfg.Registry.Register(c); err != nil {
				return nil, fmt.Errorf("audit: metrics: %w", err)
			}
		}
	}
	return l, nil
}

// LongRunning reports whether the answer to a request goes on after it began: watches, logs, and what becomes a connection.
func LongRunning(i *request.Info) bool {
	return i.Verb == "watch" || i.Verb == "proxy" ||
		slices.Contains([]string{"attach", "exec", "proxy", "log", "portforward"}, i.Subresource)
}

const idHeader = "Audit-Id"

// Begin gives requests an ID and an Entry. It writes the only event of those whose user is not found.
func (l *Log) Begin(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		id := r.Header.Get(idHeader)
		if id == "" {
			id = l.cfg.NewID()
		}
		e := &Entry{log: l, id: types.UID(id)}
		e.event.RequestReceivedTimestamp = metav1.NewMicroTime(l.cfg.Clock.Now())
		w.Header().Set(idHeader, id)
		r = r.WithContext(context.WithValue(r.Context(), entryKey{}, e))
		next.ServeHTTP(&writer{w, e}, r)
		if l.enabled() && !e.judged && e.status == http.StatusUnauthorized {
			l.unauthenticated(e, r)
		}
	})
}

func (l *Log) enabled() bool { return l.cfg.Policy != nil && l.cfg.Writer != nil }

// unauthenticated writes the event of a request whose user was not found.
func (l *Log) unauthenticated(e *Entry, r *http.Request) {
	l.judge(e, r, nil)
	e.mu.Lock()
	e.event.ResponseStatus = &metav1.Status{
		Status: metav1.StatusFailure, Reason: metav1.StatusReasonUnauthorized, Code: http.StatusUnauthorized, Message: attempted(r),
	}
	e.mu.Unlock()
	e.stage(auditv1.StageResponseComplete)
}

// attempted says how a request tried to tell its user.
func attempted(r *http.Request) string {
	var how []string
	if _, _, ok := r.BasicAuth(); ok {
		how = append(how, "basic")
	}
	if scheme, _, ok := strings.Cut(strings.TrimSpace(r.Header.Get("Authorization")), " "); ok && strings.EqualFold(scheme, "bearer") {
		how = append(how, "bearer")
	}
	if r.TLS != nil && len(r.TLS.PeerCertificates) > 0 {
		how = append(how, "x509")
	}
	if len(how) == 0 {
		return "Authentication failed, no credentials provided"
	}
	return "Authentication failed, attempted: " + strings.Join(how, ", ")
}

// Handler applies the policy to requests whose user is known, and writes their events.
func (l *Log) Handler(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		e := FromContext(r.Context())
		if e == nil || !l.enabled() {
			next.ServeHTTP(w, r)
			return
		}
		l.judge(e, r, request.UserFrom(r.Context()))
		if !e.Wants(auditv1.LevelMetadata) {
			next.ServeHTTP(w, r)
			return
		}
		e.stage(auditv1.StageRequestReceived)
		defer e.complete()
		next.ServeHTTP(w, r)
	})
}

// complete writes the last event of a request. Nothing was answered if the client went away.
func (e *Entry) complete() {
	if p := recover(); p != nil {
		e.mu.Lock()
		e.event.ResponseStatus = &metav1.Status{
			Status: metav1.StatusFailure, Reason: metav1.StatusReasonInternalError, Code: http.StatusInternalServerError,
			Message: fmt.Sprintf("APIServer panic'd: %v", p),
		}
		e.mu.Unlock()
		e.stage(auditv1.StagePanic)
		panic(p)
	}
	e.mu.Lock()
	early := e.event.ResponseStatus == nil
	if early {
		e.event.ResponseStatus = &metav1.Status{Code: http.StatusOK, Status: metav1.StatusSuccess, Message: "Connection closed early"}
	}
	e.mu.Unlock()
	if early && e.long {
		e.stage(auditv1.StageResponseStarted)
	}
	e.stage(auditv1.StageResponseComplete)
}

const longestAgent = 1024

// judge applies the policy and notes what is known from the start.
func (l *Log) judge(e *Entry, r *http.Request, u *request.User) {
	info := request.InfoFrom(r.Context())
	if info == nil {
		info = request.Parse(r)
	}
	a := rights.Of(u, info)
	v := l.cfg.Policy.Judge(&a)
	l.levels.WithLabelValues(string(v.Level)).Inc()
	e.mu.Lock()
	defer e.mu.Unlock()
	e.verdict, e.judged, e.long = v, true, l.cfg.LongRunning(info)
	if v.Level == auditv1.LevelNone {
		return
	}
	ev := &e.event
	ev.TypeMeta = metav1.TypeMeta{Kind: "Event", APIVersion: auditv1.SchemeGroupVersion.String()}
	ev.Level, ev.AuditID, ev.Verb, ev.RequestURI = v.Level, e.id, info.Verb, r.URL.RequestURI()
	if ev.UserAgent = r.UserAgent(); len(ev.UserAgent) > longestAgent {
		ev.UserAgent = ev.UserAgent[:longestAgent] + "...TRUNCATED"
	}
	for _, ip := range utilnet.SourceIPs(r) {
		ev.SourceIPs = append(ev.SourceIPs, ip.String())
	}
	if u != nil {
		ev.User = userInfo(u)
	}
	if info.IsResource {
		ev.ObjectRef = &auditv1.ObjectReference{
			Namespace: info.Namespace, Name: info.Name, Resource: info.Resource, Subresource: info.Subresource,
			APIGroup: info.Group, APIVersion: info.Version,
		}
	}
}

// stage writes an event, unless the policy leaves the stage out.
func (e *Entry) stage(s auditv1.Stage) {
	e.mu.Lock()
	if !e.wants(auditv1.LevelMetadata) || slices.Contains(e.verdict.OmitStages, s) {
		e.mu.Unlock()
		return
	}
	e.event.Stage, e.event.StageTimestamp = s, e.event.RequestReceivedTimestamp
	if s != auditv1.StageRequestReceived {
		e.event.StageTimestamp = metav1.NewMicroTime(e.log.cfg.Clock.Now())
	}
	line, err := json.Marshal(&e.event)
	e.mu.Unlock()
	if err == nil {
		err = e.log.write(append(line, '\n'))
	}
	if err != nil {
		e.log.failed("an event is lost", err, e.id)
		return
	}
	e.log.events.Inc()
}

func (l *Log) write(line []byte) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	_, err := l.cfg.Writer.Write(line)
	return err
}

func (l *Log) failed(what string, err error, id types.UID) {
	l.errors.Inc()
	l.cfg.Logger.Error("audit: "+what, zap.String("request", string(id)), zap.Error(err))
}
