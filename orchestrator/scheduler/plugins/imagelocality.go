package plugins

import (
	"strings"

	v1 "k8s.io/api/core/v1"

	"github.com/keelson-io/keelson/orchestrator/scheduler/config"
	"github.com/keelson-io/keelson/orchestrator/scheduler/framework"
)

const (
	imageKey framework.StateKey = "PreScore" + config.ImageLocality
	mb       int64              = 1024 * 1024
	// minImages is the size of images below which they do not count, maxImage that of one above which more does not.
	minImages = 23 * mb
	maxImage  = 1000 * mb
)

// imageLocality prefers nodes that have the pod's images already; large ones count more, and those that are on many
// nodes, so that a pod is not drawn to the one node that has its image.
type imageLocality struct{}

func newImageLocality() *imageLocality { return &imageLocality{} }

func (*imageLocality) Name() string { return config.ImageLocality }

type wantedImage struct {
	name   string
	spread float64
}

type imageState struct {
	images []wantedImage
	max    int64
}

func (s *imageState) Clone() framework.StateData { return s }

func (*imageLocality) PreScore(state *framework.CycleState, pod *framework.PodInfo, s *framework.Snapshot, _ []*framework.NodeInfo) *framework.Status {
	data := &imageState{}
	n := 0
	want := func(image string) {
		n++
		name := normalizedImage(image)
		if on := s.Index().ImageNodes(name); on > 0 {
			data.images = append(data.images, wantedImage{name, float64(on) / float64(len(s.Nodes()))})
		}
	}
	eachImage(pod.Pod, want)
	if len(data.images) == 0 {
		return skip()
	}
	data.max = maxImage * int64(n)
	state.Write(imageKey, data)
	return nil
}

func (*imageLocality) Score(state *framework.CycleState, _ *framework.PodInfo, node *framework.NodeInfo) (int64, *framework.Status) {
	data := framework.Data[*imageState](state, imageKey)
	var sum int64
	for i := range data.images {
		if size, ok := node.Images[data.images[i].name]; ok {
			sum += int64(float64(size) * data.images[i].spread)
		}
	}
	sum = min(max(sum, minImages), data.max)
	return framework.MaxScore * (sum - minImages) / (data.max - minImages), nil
}

func eachImage(pod *v1.Pod, f func(image string)) {
	for i := range pod.Spec.InitContainers {
		f(pod.Spec.InitContainers[i].Image)
	}
	for i := range pod.Spec.Containers {
		f(pod.Spec.Containers[i].Image)
	}
	for i := range pod.Spec.Volumes {
		if image := pod.Spec.Volumes[i].Image; image != nil {
			f(image.Reference)
		}
	}
}

// normalizedImage adds the tag that an image without one has.
func normalizedImage(name string) string {
	if strings.LastIndex(name, ":") <= strings.LastIndex(name, "/") {
		return name + ":latest"
	}
	return name
}
