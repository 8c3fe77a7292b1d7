package kinds

import (
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// Rules are the functions of a Kind for objects of type T, so that nobody has to assert types.
type Rules[T Object] struct {
	Default        func(o T)
	Create         func(o T)
	Requested      func(o T, by authenticationv1.UserInfo)
	Update         func(o, old T)
	Delete         func(o T)
	Validate       func(o T) field.ErrorList
	ValidateUpdate func(o, old T) field.ErrorList
	Ratchets       bool
	Warnings       func(o, old T) []string // old is nil at a creation
	Spec, Status   func(o T) any           // a pointer into o
	UpdateStatus   func(o, old T)
	ValidateStatus func(o, old T) field.ErrorList
	Stamp          func(o, old T, now metav1.Time)
	Fields         func(o T) map[string]string
	Row            func(o T, now time.Time) []any
	Grace          func(o T, asked *int64) *int64
	Held           func(o T) bool
}

// with puts the rules into a kind.
func with[T Object](k Kind, r Rules[T]) *Kind {
	k.Default, k.Create, k.Validate = one(r.Default), one(r.Create), checked(r.Validate)
	k.Delete, k.Ratchets = one(r.Delete), r.Ratchets
	k.Update, k.UpdateStatus = two(r.Update), two(r.UpdateStatus)
	k.ValidateUpdate, k.ValidateStatus = compared(r.ValidateUpdate), compared(r.ValidateStatus)
	k.Spec, k.Status = part(r.Spec), part(r.Status)
	if f := r.Requested; f != nil {
		k.Requested = func(o Object, by authenticationv1.UserInfo) { f(o.(T), by) }
	}
	if f := r.Stamp; f != nil {
		k.Stamp = func(o, old Object, now metav1.Time) { f(o.(T), old.(T), now) }
	}
	if f := r.Warnings; f != nil {
		k.Warnings = func(o, old Object) []string {
			before, _ := old.(T)
			return f(o.(T), before)
		}
	}
	if f := r.Fields; f != nil {
		k.Fields = func(o Object) map[string]string { return f(o.(T)) }
	}
	if f := r.Row; f != nil {
		k.Row = func(o Object, now time.Time) []any { return f(o.(T), now) }
	}
	if f := r.Grace; f != nil {
		k.Grace = func(o Object, asked *int64) *int64 { return f(o.(T), asked) }
	}
	if f := r.Held; f != nil {
		k.Held = func(o Object) bool { return f(o.(T)) }
	}
	return &k
}

// partOf makes a subresource that is a part of objects of type T.
func partOf[T Object](s Subresource, prepare func(o, old T), validate func(o, old T) field.ErrorList) Subresource {
	s.Prepare, s.Validate = two(prepare), compared(validate)
	return s
}

func one[T Object](f func(T)) func(Object) {
	if f == nil {
		return nil
	}
	return func(o Object) { f(o.(T)) }
}

func two[T Object](f func(o, old T)) func(o, old Object) {
	if f == nil {
		return nil
	}
	return func(o, old Object) { f(o.(T), old.(T)) }
}

func checked[T Object](f func(T) field.ErrorList) func(Object) field.ErrorList {
	if f == nil {
		return nil
	}
	return func(o Object) field.ErrorList { return f(o.(T)) }
}

func compared[T Object](f func(o, old T) field.ErrorList) func(o, old Object) field.ErrorList {
	if f == nil {
		return nil
	}
	return func(o, old Object) field.ErrorList { return f(o.(T), old.(T)) }
}

func part[T Object](f func(T) any) Part {
	if f == nil {
		return nil
	}
	return PartAt(func(o Object) any { return f(o.(T)) })
}
