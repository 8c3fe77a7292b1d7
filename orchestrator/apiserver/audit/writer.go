package audit

import (
	"bufio"
	"net"
	"net/http"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	auditv1 "k8s.io/apiserver/pkg/apis/audit/v1"
)

// writer sees the status of a response.
type writer struct {
	http.ResponseWriter
	e *Entry
}

// began notes the status, the first time.
func (w *writer) began(status int) {
	e := w.e
	e.mu.Lock()
	if e.status != 0 || status < 200 && status != http.StatusSwitchingProtocols { // 1xx: the answer is yet to come
		e.mu.Unlock()
		return
	}
	e.status = status
	if !e.judged {
		e.mu.Unlock()
		return
	}
	if e.event.ResponseStatus == nil {
		e.event.ResponseStatus = &metav1.Status{}
	}
	e.event.ResponseStatus.Code = int32(status)
	long := e.long
	e.mu.Unlock()
	if long {
		e.stage(auditv1.StageResponseStarted)
	}
}

// WriteHeader notes the status.
func (w *writer) WriteHeader(status int) {
	w.began(status)
	w.ResponseWriter.WriteHeader(status)
}

// Write notes that the status is 200, if none was sent.
func (w *writer) Write(p []byte) (int, error) {
	w.began(http.StatusOK)
	return w.ResponseWriter.Write(p)
}

// Flush sends what there is.
func (w *writer) Flush() {
	w.began(http.StatusOK)
	_ = http.NewResponseController(w.ResponseWriter).Flush() // there is no one to tell, as with any Flusher
}

// Hijack notes that the protocol changes.
func (w *writer) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	conn, rw, err := http.NewResponseController(w.ResponseWriter).Hijack()
	if err == nil {
		w.began(http.StatusSwitchingProtocols)
	}
	return conn, rw, err
}

// Unwrap is for http.ResponseController.
func (w *writer) Unwrap() http.ResponseWriter { return w.ResponseWriter }
