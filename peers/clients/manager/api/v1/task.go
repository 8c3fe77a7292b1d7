// Package v1 is the version of tasks that is stored.
package v1

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// GroupVersion is the group and version of this package.
var GroupVersion = schema.GroupVersion{Group: "work.example.com", Version: "v1"}

// Task asks for some config maps.
type Task struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	Spec   TaskSpec   `json:"spec"`
	Status TaskStatus `json:"status,omitempty"`
}

// TaskSpec is what is asked for.
type TaskSpec struct {
	Size    int32  `json:"size,omitempty"` // of config maps
	Message string `json:"message,omitempty"`
}

// TaskStatus is what there is.
type TaskStatus struct {
	ObservedGeneration int64  `json:"observedGeneration,omitempty"`
	Ready              int32  `json:"ready,omitempty"`
	Secrets            int32  `json:"secrets,omitempty"` // that are about the task
	By                 string `json:"by,omitempty"`      // the manager that saw to it
}

// Hub implements conversion.Hub.
func (*Task) Hub() {}

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
