// Package v1beta1 is an older version of tasks, which is still served: the number of config maps has another name and form.
package v1beta1

import (
	"strconv"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/controller-runtime/pkg/conversion"

	v1 "github.com/keelson-io/keelson/peers/clients/manager/api/v1"
)

// GroupVersion is the group and version of this package.
var GroupVersion = schema.GroupVersion{Group: "work.example.com", Version: "v1beta1"}

// Task asks for some config maps.
type Task struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	Spec   TaskSpec      `json:"spec"`
	Status v1.TaskStatus `json:"status,omitempty"`
}

// TaskSpec is what is asked for.
type TaskSpec struct {
	Count   string `json:"count,omitempty"` // a number
	Message string `json:"message,omitempty"`
}

// ConvertTo implements conversion.Convertible.
func (t *Task) ConvertTo(hub conversion.Hub) error {
	to := hub.(*v1.Task)
	to.ObjectMeta, to.Status, to.Spec.Message = t.ObjectMeta, t.Status, t.Spec.Message
	if t.Spec.Count == "" {
		return nil
	}
	n, err := strconv.ParseInt(t.Spec.Count, 10, 32)
	to.Spec.Size = int32(n)
	return err
}

// ConvertFrom implements conversion.Convertible.
func (t *Task) ConvertFrom(hub conversion.Hub) error {
	from := hub.(*v1.Task)
	t.ObjectMeta, t.Status, t.Spec.Message = from.ObjectMeta, from.Status, from.Spec.Message
	if from.Spec.Size != 0 {
		t.Spec.Count = strconv.Itoa(int(from.Spec.Size))
	}
	return nil
}

// DeepCopyObject implements runtime.Object.
func (t *Task) DeepCopyObject() runtime.Object {
	c := *t
	t.ObjectMeta.DeepCopyInto(&c.ObjectMeta)
	return &c
}

// TaskList is a list of tasks.
type TaskList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`

	Items []Task `json:"items"`
}

// DeepCopyObject implements runtime.Object.
func (l *TaskList) DeepCopyObject() runtime.Object {
	c := *l
	l.ListMeta.DeepCopyInto(&c.ListMeta)
	c.Items = make([]Task, len(l.Items))
	for i := range l.Items {
		c.Items[i] = *l.Items[i].DeepCopyObject().(*Task)
	}
	return &c
}

// AddToScheme makes a scheme know the version.
func AddToScheme(s *runtime.Scheme) error {
	s.AddKnownTypes(GroupVersion, &Task{}, &TaskList{})
	metav1.AddToGroupVersion(s, GroupVersion)
	return nil
}
