//go:build linux

package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"log"
	"maps"
	"net"
	"net/http"
	"os"
	"slices"
	"strconv"
	"sync"
	"time"
)

const (
	wardleGroup   = "wardle.example.com"
	wardleVersion = wardleGroup + "/v1alpha1"
	secrets       = "/var/run/secrets/kubernetes.io/serviceaccount/"
)

// object is one of the API, as it is in JSON.
type object = map[string]any

// wardle is a small API server, of the kind Flunder, to which the cluster's hands requests on. It believes this in who asks, if
// it shows the certificate of which the cluster tells, and asks it whether he may.
type wardle struct {
	cluster string // URL of the cluster's API server
	client  *http.Client
	front   map[string]string // data of the ConfigMap in which the cluster tells whom to believe

	mu       sync.Mutex
	revision int
	flunders map[string]object // by namespace/name
}

// serveWardle runs it: [-https address] -cert file -key file.
func serveWardle(args []string) error {
	fs := flag.NewFlagSet("wardle", flag.ContinueOnError)
	address := fs.String("https", ":443", "address to serve on")
	files := credentialFlags(fs)
	if err := fs.Parse(args); err != nil {
		return err
	}
	*files.ca = secrets + "ca.crt" // of the cluster, which is asked by the token alone
	pool, err := files.pool()
	if err != nil {
		return err
	}
	s := &wardle{
		cluster:  "https://" + net.JoinHostPort(os.Getenv("KUBERNETES_SERVICE_HOST"), os.Getenv("KUBERNETES_SERVICE_PORT")),
		client:   &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool}}},
		flunders: map[string]object{},
	}
	if err := s.trust(); err != nil {
		return err
	}
	config := &tls.Config{ClientAuth: tls.VerifyClientCertIfGiven, ClientCAs: x509.NewCertPool()}
	if !config.ClientCAs.AppendCertsFromPEM([]byte(s.front["requestheader-client-ca-file"])) {
		return errors.New("nobody is to be believed")
	}
	config.GetCertificate = func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return files.pair() }
	server := &http.Server{Addr: *address, Handler: s.handler(), TLSConfig: config, ErrorLog: log.New(os.Stderr, "", 0)}
	return untilEnd(func() error { return server.ListenAndServeTLS("", "") })
}

// trust learns whom to believe.
func (s *wardle) trust() error {
	var o struct{ Data map[string]string }
	if err := s.call(context.Background(), http.MethodGet, "/api/v1/namespaces/kube-system/configmaps/extension-apiserver-authentication", nil, &o); err != nil {
		return err
	}
	s.front = o.Data
	return nil
}

// call asks the cluster's API server, with the token of the pod.
func (s *wardle) call(ctx context.Context, method, path string, body, into any) error {
	token, err := os.ReadFile(secrets + "token")
	if err != nil {
		return err
	}
	var text bytes.Buffer
	if body != nil {
		if err := json.NewEncoder(&text).Encode(body); err != nil {
			return err
		}
	}
	r, err := http.NewRequestWithContext(ctx, method, s.cluster+path, &text)
	if err != nil {
		return err
	}
	r.Header = http.Header{"Authorization": {"Bearer " + string(token)}, "Content-Type": {"application/json"}, "Accept": {"application/json"}}
	answer, err := s.client.Do(r)
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	if answer.StatusCode >= 300 {
		text, _ := io.ReadAll(answer.Body) // the status is enough
		return fmt.Errorf("%s %s: %s: %s", method, path, answer.Status, text)
	}
	return json.NewDecoder(answer.Body).Decode(into)
}

func (s *wardle) handler() http.Handler {
	own := http.NewServeMux()
	const below = "/apis/" + wardleVersion
	tell := func(path string, o object) {
		own.HandleFunc("GET "+path, func(w http.ResponseWriter, _ *http.Request) { reply(w, http.StatusOK, o) })
	}
	version := object{"groupVersion": wardleVersion, "version": "v1alpha1"}
	group := object{"kind": "APIGroup", "apiVersion": "v1", "name": wardleGroup, "versions": []object{version}, "preferredVersion": version}
	tell("/apis", object{"kind": "APIGroupList", "apiVersion": "v1", "groups": []object{group}})
	tell("/apis/"+wardleGroup, group)
	tell(below, object{"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": wardleVersion, "resources": []object{{
		"name": "flunders", "singularName": "flunder", "namespaced": true, "kind": "Flunder", "verbs": []string{"create", "delete", "get", "list"},
	}}})
	for pattern, v := range map[string]struct {
		verb  string
		serve func(w http.ResponseWriter, r *http.Request)
	}{
		"GET " + below + "/flunders":                                  {"list", s.list},
		"GET " + below + "/namespaces/{namespace}/flunders":           {"list", s.list},
		"POST " + below + "/namespaces/{namespace}/flunders":          {"create", s.create},
		"GET " + below + "/namespaces/{namespace}/flunders/{name}":    {"get", s.get},
		"DELETE " + below + "/namespaces/{namespace}/flunders/{name}": {"delete", s.remove},
	} {
		own.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) {
			if err := s.authorize(r, v.verb); err != nil {
				fail(w, http.StatusForbidden, "Forbidden", err.Error())
				return
			}
			v.serve(w, r)
		})
	}
	mux := http.NewServeMux()
	mux.HandleFunc("/readyz", func(http.ResponseWriter, *http.Request) {})
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		if !s.believed(r) {
			fail(w, http.StatusUnauthorized, "Unauthorized", "who asks is not known")
			return
		}
		own.ServeHTTP(w, r)
	})
	return mux
}

// believed says whether a request is of the cluster's API server, and says whose it is.
func (s *wardle) believed(r *http.Request) bool {
	var names []string
	if len(r.TLS.VerifiedChains) == 0 || json.Unmarshal([]byte(s.front["requestheader-allowed-names"]), &names) != nil {
		return false
	}
	return slices.Contains(names, r.TLS.VerifiedChains[0][0].Subject.CommonName) && r.Header.Get("X-Remote-User") != ""
}

// authorize asks the cluster's API server whether a user may do what he asks for.
func (s *wardle) authorize(r *http.Request, verb string) error {
	review := object{"apiVersion": "authorization.k8s.io/v1", "kind": "SubjectAccessReview", "spec": object{
		"user": r.Header.Get("X-Remote-User"), "groups": r.Header.Values("X-Remote-Group"), "resourceAttributes": object{
			"group": wardleGroup, "version": "v1alpha1", "resource": "flunders", "verb": verb, "namespace": r.PathValue("namespace"), "name": r.PathValue("name"),
		},
	}}
	var answer struct {
		Status struct {
			Allowed bool
			Reason  string
		}
	}
	if err := s.call(r.Context(), http.MethodPost, "/apis/authorization.k8s.io/v1/subjectaccessreviews", review, &answer); err != nil {
		return err
	}
	if !answer.Status.Allowed {
		return fmt.Errorf("%s may not: %s", r.Header.Get("X-Remote-User"), answer.Status.Reason)
	}
	return nil
}

func (s *wardle) list(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	items := []object{}
	for _, key := range slices.Sorted(maps.Keys(s.flunders)) {
		o := s.flunders[key]
		if ns := r.PathValue("namespace"); ns == "" || ns == o["metadata"].(object)["namespace"] {
			items = append(items, o)
		}
	}
	reply(w, http.StatusOK, object{"apiVersion": wardleVersion, "kind": "FlunderList", "metadata": object{"resourceVersion": strconv.Itoa(s.revision)}, "items": items})
}

func (s *wardle) create(w http.ResponseWriter, r *http.Request) {
	o := object{}
	err := json.NewDecoder(r.Body).Decode(&o)
	meta, _ := o["metadata"].(object)
	name, _ := meta["name"].(string)
	if err != nil || name == "" || o["kind"] != "Flunder" || o["apiVersion"] != wardleVersion {
		fail(w, http.StatusBadRequest, "BadRequest", "want a Flunder in JSON with a name")
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	key := r.PathValue("namespace") + "/" + name
	if s.flunders[key] != nil {
		fail(w, http.StatusConflict, "AlreadyExists", name+" exists")
		return
	}
	s.revision++
	maps.Copy(meta, object{
		"namespace": r.PathValue("namespace"), "uid": fmt.Sprintf("00000000-0000-4000-8000-%012d", s.revision), "resourceVersion": strconv.Itoa(s.revision),
		"creationTimestamp": time.Now().UTC().Format(time.RFC3339),
	})
	o["status"] = object{"by": r.Header.Get("X-Remote-User")}
	s.flunders[key] = o
	reply(w, http.StatusCreated, o)
}

func (s *wardle) get(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if o := s.flunders[r.PathValue("namespace")+"/"+r.PathValue("name")]; o != nil {
		reply(w, http.StatusOK, o)
		return
	}
	fail(w, http.StatusNotFound, "NotFound", "there is no "+r.PathValue("name"))
}

func (s *wardle) remove(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	key := r.PathValue("namespace") + "/" + r.PathValue("name")
	if s.flunders[key] == nil {
		fail(w, http.StatusNotFound, "NotFound", "there is no "+r.PathValue("name"))
		return
	}
	delete(s.flunders, key)
	s.revision++
	reply(w, http.StatusOK, object{"kind": "Status", "apiVersion": "v1", "status": "Success"})
}

func reply(w http.ResponseWriter, code int, o object) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	_ = json.NewEncoder(w).Encode(o)
}

func fail(w http.ResponseWriter, code int, reason, message string) {
	reply(w, code, object{"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code, "reason": reason, "message": message})
}
