package controlplane

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
	rbac "k8s.io/api/rbac/v1"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/client-go/dynamic"
)

// testDefaultRoles compares the default roles that the engine made with those that the API server makes when it
// finds none: no more, no less, and the same.
func testDefaultRoles(t *testing.T, ctx context.Context, m *machine, e *Engine, c Config) {
	config, err := e.Client(c.ID)
	if err != nil {
		t.Fatal(err)
	}
	client, err := dynamic.NewForConfig(config)
	if err != nil {
		t.Fatal(err)
	}
	var listed []unstructured.Unstructured
	if err := json.Unmarshal(defaultRoles, &listed); err != nil {
		t.Fatal(err)
	}
	labelled := meta.ListOptions{LabelSelector: "kubernetes.io/bootstrapping=rbac-defaults"}
	resources := []string{"clusterroles", "clusterrolebindings", "roles", "rolebindings"}
	there := func() map[string]string {
		out := map[string]string{}
		for _, resource := range resources {
			list, err := client.Resource(rbac.SchemeGroupVersion.WithResource(resource)).List(ctx, labelled)
			if err != nil {
				t.Fatal(err)
			}
			for _, o := range list.Items {
				if o.GetName() == "system:coredns" { // CoreDNS's own has the label upstream, too
					continue
				}
				out[o.GetKind()+" "+o.GetNamespace()+"/"+o.GetName()] = content(t, o)
			}
		}
		return out
	}
	made := there()
	if len(made) != len(listed) {
		t.Errorf("there are %d default roles and bindings, and %d in the manifest", len(made), len(listed))
	}
	for _, resource := range resources {
		for _, namespace := range []string{"", "kube-system", "kube-public"} {
			if (namespace == "") != strings.HasPrefix(resource, "cluster") {
				continue
			}
			if err := client.Resource(rbac.SchemeGroupVersion.WithResource(resource)).Namespace(namespace).DeleteCollection(ctx, meta.DeleteOptions{}, labelled); err != nil {
				t.Fatal(err)
			}
		}
	}
	restartAPIServer(t, ctx, m, e, c)
	now := there()
	for _, o := range listed {
		name := o.GetKind() + " " + o.GetNamespace() + "/" + o.GetName()
		if want := content(t, o); now[name] != want {
			t.Errorf("%s is in the manifest\n%s\nand the API server makes\n%s", name, want, now[name])
		}
		delete(now, name)
	}
	for name := range now {
		t.Errorf("%s is not in the manifest", name)
	}
}

// content is what a role says, without what a controller adds to it.
func content(t *testing.T, o unstructured.Unstructured) string {
	t.Helper()
	says := map[string]any{"labels": o.GetLabels(), "annotations": o.GetAnnotations()}
	for _, field := range []string{"aggregationRule", "rules", "roleRef", "subjects"} {
		says[field] = o.Object[field]
	}
	if says["aggregationRule"] != nil || says["rules"] == nil {
		says["rules"] = nil
	}
	data, err := json.Marshal(says)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

// restartAPIServer kills the API server and returns when the one that the restart monitor started is ready.
func restartAPIServer(t *testing.T, ctx context.Context, m *machine, e *Engine, c Config) {
	t.Helper()
	status, err := m.containers.Status(ctx, containerID(c.ID, apiserver))
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.Kill(status.PID, unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	waitFor(t, ctx, "another kube-apiserver", func() error {
		now, err := m.containers.Status(ctx, containerID(c.ID, apiserver))
		if err != nil || !now.Running || now.PID == status.PID {
			return fmt.Errorf("%+v, %v", now, err)
		}
		return nil
	})
	if err := e.WaitReady(ctx, c.ID); err != nil {
		t.Fatal(err)
	}
}
