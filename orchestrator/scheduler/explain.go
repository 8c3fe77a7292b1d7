package scheduler

import (
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"strings"
	"text/tabwriter"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"github.com/keelson-io/keelson/orchestrator/scheduler/cache"
	"github.com/keelson-io/keelson/orchestrator/scheduler/config"
	"github.com/keelson-io/keelson/orchestrator/scheduler/core"
	"github.com/keelson-io/keelson/orchestrator/scheduler/extender"
	"github.com/keelson-io/keelson/orchestrator/scheduler/framework"
)

// Situation is what a pod's placement depends on.
type Situation struct {
	// Pod is the one to explain. If it has a node already, it is looked at as if it had none.
	Pod   *v1.Pod
	Nodes []*v1.Node
	Pods  []*v1.Pod
	// Others are namespaces, services, replication controllers, replica sets, stateful sets, disruption budgets and all kinds of storage.
	Others []runtime.Object
	// Configuration is that of config.Default if nil.
	Configuration *config.Configuration
	// Plugin makes plugins.
	Plugin core.Factory
}

// Explanation tells why a pod is, or is not, where it is.
type Explanation struct {
	Pod     string `json:"pod"`
	Profile string `json:"profile"`
	// Bound is the node that the pod has.
	Bound string `json:"bound,omitempty"`
	// Gates keep the pod from being tried.
	Gates []Verdict `json:"gates,omitempty"`
	// Message is that of the event FailedScheduling; it is empty if a node fits.
	Message string `json:"message,omitempty"`
	// Best are the nodes with the highest score. One of them would be taken.
	Best  []string          `json:"best,omitempty"`
	Nodes []NodeExplanation `json:"nodes"`
	// Preemption is what would be done to make room.
	Preemption *Eviction `json:"preemption,omitempty"`
}

// NodeExplanation is what plugins say about a node.
type NodeExplanation struct {
	Name string `json:"name"`
	Fits bool   `json:"fits"`
	// Rejections are those of all filters.
	Rejections []Verdict `json:"rejections,omitempty"`
	// Scores are empty for nodes that do not fit.
	Scores []ScoreExplanation `json:"scores,omitempty"`
	Total  int64              `json:"total"`
}

// Verdict is a rejection.
type Verdict struct {
	Plugin  string   `json:"plugin"`
	Code    string   `json:"code"`
	Reasons []string `json:"reasons,omitempty"`
}

// ScoreExplanation is how a plugin ranks a node: Normalized, of 0 to 100, times Weight goes into the total.
type ScoreExplanation struct {
	Plugin     string `json:"plugin"`
	Raw        int64  `json:"raw"`
	Normalized int64  `json:"normalized"`
	Weight     int64  `json:"weight"`
}

// Eviction is a node with the pods that would have to go.
type Eviction struct {
	Node    string   `json:"node"`
	Victims []string `json:"victims,omitempty"`
}

// Explain works out what every plugin says about every node.
func Explain(ctx context.Context, in Situation) (*Explanation, error) {
	if in.Configuration == nil {
		in.Configuration = config.Default()
	}
	extenders, err := extender.New(in.Configuration)
	if err != nil {
		return nil, fmt.Errorf("explain: %w", err)
	}
	profiles, err := core.NewProfiles(in.Configuration, in.Plugin, extenders)
	if err != nil {
		return nil, fmt.Errorf("explain: %w", err)
	}
	name := in.Pod.Namespace + "/" + in.Pod.Name
	p := profiles[in.Pod.Spec.SchedulerName]
	if p == nil {
		return nil, fmt.Errorf("explain: pod %s is for scheduler %q, of which there is no profile", name, in.Pod.Spec.SchedulerName)
	}
	s := in.snapshot()
	unbound := *in.Pod
	unbound.Spec.NodeName = ""
	c := core.New(core.Options{Random: rand.New(rand.NewPCG(1, 1))})
	r, err := c.Explain(ctx, p, framework.NewPodInfo(&unbound), s)
	if err != nil {
		return nil, fmt.Errorf("explain pod %s: %w", name, err)
	}
	out := &Explanation{Pod: name, Profile: p.Name, Bound: in.Pod.Spec.NodeName, Gates: verdicts(r.Gates)}
	out.fill(r, s)
	return out, nil
}

// snapshot is the cluster without the pod.
func (in *Situation) snapshot() *framework.Snapshot {
	cl, ca := newCluster(), cache.New()
	for _, o := range in.Others {
		cl.set(o)
	}
	for _, n := range in.Nodes {
		ca.SetNode(n)
	}
	s := framework.NewSnapshot(cl)
	s.Nominated = map[string][]*framework.PodInfo{}
	for _, p := range in.Pods {
		switch node := p.Status.NominatedNodeName; {
		case p.UID == in.Pod.UID || alive(p) == nil:
		case p.Spec.NodeName != "":
			ca.SetPod(p)
		case node != "":
			s.Nominated[node] = append(s.Nominated[node], framework.NewPodInfo(p))
		}
	}
	ca.Update(s)
	return s
}

func (e *Explanation) fill(r *core.Report, s *framework.Snapshot) {
	for i, n := range s.Nodes() {
		rejections := r.Filters[i]
		if r.PreFilter != nil {
			rejections = []*framework.Status{r.PreFilter}
		}
		e.Nodes = append(e.Nodes, NodeExplanation{Name: n.Name(), Fits: len(rejections) == 0, Rejections: verdicts(rejections)})
	}
	for j, n := range r.Feasible {
		node := &e.Nodes[s.Position(n.Name())]
		node.Total = r.Scores.Total[j]
		for k, plugin := range r.Scores.Plugins {
			score := ScoreExplanation{Plugin: plugin, Normalized: r.Scores.Normalized[k][j], Weight: r.Scores.Weights[k]}
			if score.Raw = score.Normalized; k < len(r.Scores.Raw) {
				score.Raw = r.Scores.Raw[k][j]
			}
			node.Scores = append(node.Scores, score)
		}
	}
	if len(r.Feasible) > 0 {
		best := slices.Max(r.Scores.Total)
		for j, n := range r.Feasible {
			if r.Scores.Total[j] == best {
				e.Best = append(e.Best, n.Name())
			}
		}
	}
	slices.Sort(e.Best)
	slices.SortFunc(e.Nodes, func(a, b NodeExplanation) int { return strings.Compare(a.Name, b.Name) })
	if r.Failure != nil {
		e.Message = r.Failure.Error()
	}
	if p := r.Preemption; p != nil && p.Node != "" {
		e.Preemption = &Eviction{Node: p.Node}
		for _, v := range p.Pods {
			e.Preemption.Victims = append(e.Preemption.Victims, v.Name())
		}
	}
}

func verdicts(statuses []*framework.Status) []Verdict {
	var out []Verdict
	for _, st := range statuses {
		out = append(out, Verdict{Plugin: st.Plugin(), Code: st.Code().String(), Reasons: st.Reasons()})
	}
	return out
}

// Write prints the explanation for people.
func (e *Explanation) Write(w io.Writer) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintf(t, "Pod:\t%s\nProfile:\t%s\n", e.Pod, e.Profile)
	if e.Bound != "" {
		fmt.Fprintf(t, "Node:\t%s\n", e.Bound)
	}
	for _, g := range e.Gates {
		fmt.Fprintf(t, "Gated:\t%s\n", g)
	}
	switch {
	case len(e.Best) == 1:
		fmt.Fprintf(t, "Best node:\t%s\n", e.Best[0])
	case len(e.Best) > 1:
		fmt.Fprintf(t, "Best nodes:\t%s\n", strings.Join(e.Best, ", "))
	default:
		fmt.Fprintf(t, "Message:\t%s\n", e.Message)
	}
	if p := e.Preemption; p != nil {
		fmt.Fprintf(t, "Preemption:\ton %s of %s\n", p.Node, strings.Join(p.Victims, ", "))
	}
	if err := t.Flush(); err != nil {
		return err
	}
	return e.writeNodes(w)
}

// writeNodes prints a line for each node: the best first, those that do not fit last.
func (e *Explanation) writeNodes(w io.Writer) error {
	nodes := slices.Clone(e.Nodes)
	slices.SortStableFunc(nodes, func(a, b NodeExplanation) int {
		switch {
		case a.Fits != b.Fits && a.Fits:
			return -1
		case a.Fits != b.Fits:
			return 1
		}
		return int(b.Total - a.Total)
	})
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintf(t, "\nNODE\tFITS\tSCORE\tWHY\n")
	for _, n := range nodes {
		var why []string
		if n.Fits {
			for _, s := range n.Scores {
				why = append(why, fmt.Sprintf("%s %d*%d", s.Plugin, s.Normalized, s.Weight))
			}
			fmt.Fprintf(t, "%s\tyes\t%d\t%s\n", n.Name, n.Total, strings.Join(why, " + "))
			continue
		}
		for _, r := range n.Rejections {
			why = append(why, r.String())
		}
		fmt.Fprintf(t, "%s\tno\t\t%s\n", n.Name, strings.Join(why, "; "))
	}
	return t.Flush()
}

// String is the verdict in one line.
func (v Verdict) String() string {
	reasons := strings.Join(v.Reasons, ", ")
	if v.Plugin == "" {
		return reasons
	}
	return v.Plugin + ": " + reasons
}
