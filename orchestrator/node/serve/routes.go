package serve

import (
	"encoding/json"
	"net/http"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// handler serves all that there is.
func (s *Server) handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", s.health)
	mux.HandleFunc("GET /healthz/{check}", s.health)
	mux.HandleFunc("GET /pods", s.pods)
	mux.HandleFunc("GET /pods/", s.pods)
	mux.HandleFunc("GET /runningpods", s.runningPods)
	mux.HandleFunc("GET /runningpods/", s.runningPods)
	mux.HandleFunc("GET /containerLogs/{namespace}/{pod}/{container}", s.containerLogs)
	for route, do := range map[string]http.HandlerFunc{"/exec/": s.exec, "/attach/": s.attach} {
		for _, method := range []string{"GET ", "POST "} {
			mux.HandleFunc(method+route+"{namespace}/{pod}/{container}", do)
			mux.HandleFunc(method+route+"{namespace}/{pod}/{uid}/{container}", do)
		}
	}
	for _, method := range []string{"GET ", "POST "} {
		mux.HandleFunc(method+"/portForward/{namespace}/{pod}", s.portForward)
		mux.HandleFunc(method+"/portForward/{namespace}/{pod}/{uid}", s.portForward)
	}
	mux.HandleFunc("POST /run/{namespace}/{pod}/{container}", s.run)
	mux.HandleFunc("POST /run/{namespace}/{pod}/{uid}/{container}", s.run)
	for path, of := range map[string]prometheus.Gatherer{
		"/metrics": s.cfg.Metrics.Agent, "/metrics/probes": s.cfg.Metrics.Probes,
		"/metrics/resource": s.cfg.Metrics.Resource, "/metrics/cadvisor": s.cfg.Metrics.Containers,
	} {
		if of != nil {
			mux.Handle("GET "+path, promhttp.HandlerFor(of, promhttp.HandlerOpts{ErrorHandling: promhttp.ContinueOnError}))
		}
	}
	if s.cfg.Metrics.Summary != nil {
		mux.HandleFunc("GET /stats/summary", s.summary)
	}
	if s.cfg.Settings != nil {
		mux.HandleFunc("GET /configz", func(w http.ResponseWriter, _ *http.Request) {
			writeJSON(w, map[string]any{"kubeletconfig": s.cfg.Settings})
		})
	}
	return s.gate(mux)
}

func writeJSON(w http.ResponseWriter, v any) {
	b, err := json.Marshal(v)
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	_, _ = w.Write(b) // the client is gone
}

func (s *Server) health(w http.ResponseWriter, r *http.Request) {
	if s.cfg.Healthy != nil {
		if err := s.cfg.Healthy(r.Context()); err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
	}
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	_, _ = w.Write([]byte("ok")) // the client is gone
}

func podList(pods ...*corev1.Pod) *corev1.PodList {
	l := &corev1.PodList{TypeMeta: metav1.TypeMeta{Kind: "PodList", APIVersion: "v1"}, Items: make([]corev1.Pod, len(pods))}
	for i, p := range pods {
		l.Items[i] = *p
	}
	return l
}

func (s *Server) pods(w http.ResponseWriter, _ *http.Request) {
	writeJSON(w, podList(s.cfg.Workers.Pods()...))
}

// Labels by which the runtime knows whose its containers are.
const (
	podNameLabel       = "io.kubernetes.pod.name"
	podNamespaceLabel  = "io.kubernetes.pod.namespace"
	podUIDLabel        = "io.kubernetes.pod.uid"
	containerNameLabel = "io.kubernetes.container.name"
)

// runningPods lists what the runtime runs, whatever the API server knows of it.
func (s *Server) runningPods(w http.ResponseWriter, r *http.Request) {
	ready := &runtimeapi.PodSandboxFilter{State: &runtimeapi.PodSandboxStateValue{State: runtimeapi.PodSandboxState_SANDBOX_READY}}
	sandboxes, err := s.cfg.Runtime.ListPodSandbox(r.Context(), &runtimeapi.ListPodSandboxRequest{Filter: ready})
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	running := &runtimeapi.ContainerFilter{State: &runtimeapi.ContainerStateValue{State: runtimeapi.ContainerState_CONTAINER_RUNNING}}
	containers, err := s.cfg.Runtime.ListContainers(r.Context(), &runtimeapi.ListContainersRequest{Filter: running})
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	of := map[string][]corev1.Container{}
	for _, c := range containers.Containers {
		of[c.PodSandboxId] = append(of[c.PodSandboxId], corev1.Container{Name: c.GetMetadata().GetName(), Image: c.GetImage().GetImage()})
	}
	var pods []*corev1.Pod
	for _, sb := range sandboxes.Items {
		m := sb.GetMetadata()
		pods = append(pods, &corev1.Pod{
			ObjectMeta: metav1.ObjectMeta{Name: m.GetName(), Namespace: m.GetNamespace(), UID: types.UID(m.GetUid())},
			Spec:       corev1.PodSpec{Containers: of[sb.Id]},
		})
	}
	writeJSON(w, podList(pods...))
}

func (s *Server) summary(w http.ResponseWriter, r *http.Request) {
	out, err := s.cfg.Metrics.Summary(r.Context(), r.URL.Query().Get("only_cpu_and_memory") == "true")
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	writeJSON(w, out)
}
