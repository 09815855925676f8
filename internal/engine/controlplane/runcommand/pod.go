package runcommand

import (
	"context"
	"fmt"

	authentication "k8s.io/api/authentication/v1"
	core "k8s.io/api/core/v1"
	rbac "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
)

// Names of AKS's.
const (
	namespace     = "aks-command"
	containerName = "user-command"
	annotation    = "aks.azure.com/runCommand"
)

// In the pod: what it is given, and the directory that the command runs in.
const (
	inputDir   = "/var/run/aks-command"
	workingDir = "/command-files"
)

// start is the container's process. The command is a file, for Kubernetes expands dollar signs in arguments.
const start = `cp -RL ` + inputDir + `/files/. . 2>/dev/null; exec sh ` + inputDir + `/command`

func objectName(id string) string { return "command-" + id }

// ensure makes all that the command runs with; what is there from before the process died is left alone.
func ensure(ctx context.Context, client kubernetes.Interface, image string, c Command, ca []byte) error {
	there := func(err error) error {
		if apierrors.IsAlreadyExists(err) {
			return nil
		}
		return err
	}
	name := objectName(c.ID)
	_, err := client.CoreV1().Namespaces().Create(ctx, &core.Namespace{ObjectMeta: meta.ObjectMeta{Name: namespace}}, meta.CreateOptions{})
	if there(err) != nil {
		return fmt.Errorf("make namespace %s: %w", namespace, err)
	}
	if _, err := client.CoreV1().Pods(namespace).Get(ctx, name, meta.GetOptions{}); err == nil {
		return nil // it is made last
	} else if !apierrors.IsNotFound(err) {
		return fmt.Errorf("look for pod %s: %w", name, err)
	}
	account := &core.ServiceAccount{ObjectMeta: meta.ObjectMeta{Name: name}}
	if _, err := client.CoreV1().ServiceAccounts(namespace).Create(ctx, account, meta.CreateOptions{}); there(err) != nil {
		return fmt.Errorf("make service account %s: %w", name, err)
	}
	binding := &rbac.ClusterRoleBinding{
		ObjectMeta: meta.ObjectMeta{Name: bindingName(c.ID)},
		RoleRef:    rbac.RoleRef{APIGroup: rbac.GroupName, Kind: "ClusterRole", Name: "cluster-admin"},
		Subjects:   []rbac.Subject{{Kind: rbac.ServiceAccountKind, Name: name, Namespace: namespace}},
	}
	if _, err := client.RbacV1().ClusterRoleBindings().Create(ctx, binding, meta.CreateOptions{}); there(err) != nil {
		return fmt.Errorf("make cluster role binding %s: %w", binding.Name, err)
	}
	files, err := unpack(c.Context)
	if err != nil {
		return err
	}
	config, err := kubeconfig(ctx, client, name, ca)
	if err != nil {
		return err
	}
	secret := &core.Secret{ObjectMeta: meta.ObjectMeta{Name: name}, Data: map[string][]byte{"command": []byte(c.Text), "kubeconfig": config}}
	for i, f := range files {
		secret.Data[fileKey(i)] = f.data
	}
	if _, err := client.CoreV1().Secrets(namespace).Create(ctx, secret, meta.CreateOptions{}); there(err) != nil {
		return fmt.Errorf("make secret %s: %w", name, err)
	}
	if _, err := client.CoreV1().Pods(namespace).Create(ctx, pod(image, c.ID, files), meta.CreateOptions{}); there(err) != nil {
		return fmt.Errorf("make pod %s: %w", name, err)
	}
	return nil
}

func bindingName(id string) string { return namespace + ":" + objectName(id) }

func fileKey(i int) string { return fmt.Sprintf("file-%d", i) }

// kubeconfig has a token of the command's own account, and the default namespace. The API server is named by its Service's
// address, which works while the cluster's DNS does not.
func kubeconfig(ctx context.Context, client kubernetes.Interface, account string, ca []byte) ([]byte, error) {
	service, err := client.CoreV1().Services(meta.NamespaceDefault).Get(ctx, "kubernetes", meta.GetOptions{})
	if err != nil {
		return nil, fmt.Errorf("look for the Service of the API server: %w", err)
	}
	seconds := int64((timeLimit + startLimit).Seconds())
	token, err := client.CoreV1().ServiceAccounts(namespace).CreateToken(ctx, account,
		&authentication.TokenRequest{Spec: authentication.TokenRequestSpec{ExpirationSeconds: &seconds}}, meta.CreateOptions{})
	if err != nil {
		return nil, fmt.Errorf("ask for a token of %s: %w", account, err)
	}
	c := clientcmdapi.NewConfig()
	c.Clusters["cluster"] = &clientcmdapi.Cluster{Server: "https://" + service.Spec.ClusterIP + ":443", CertificateAuthorityData: ca}
	c.AuthInfos["user"] = &clientcmdapi.AuthInfo{Token: token.Status.Token}
	c.Contexts["command"] = &clientcmdapi.Context{Cluster: "cluster", AuthInfo: "user"}
	c.CurrentContext = "command"
	return clientcmd.Write(*c)
}

func pod(image, id string, files []file) *core.Pod {
	items := []core.KeyToPath{{Key: "command", Path: "command"}, {Key: "kubeconfig", Path: "kubeconfig"}}
	plain, executable := int32(0o644), int32(0o755)
	for i, f := range files {
		item := core.KeyToPath{Key: fileKey(i), Path: "files/" + f.path, Mode: &plain}
		if f.executable {
			item.Mode = &executable
		}
		items = append(items, item)
	}
	no, seconds := false, int64(timeLimit.Seconds())
	var grace int64
	return &core.Pod{
		ObjectMeta: meta.ObjectMeta{Name: objectName(id), Annotations: map[string]string{annotation: "true"}},
		Spec: core.PodSpec{
			RestartPolicy: core.RestartPolicyNever, ServiceAccountName: objectName(id), AutomountServiceAccountToken: &no,
			ActiveDeadlineSeconds: &seconds, TerminationGracePeriodSeconds: &grace, EnableServiceLinks: &no,
			NodeSelector: map[string]string{"kubernetes.io/os": "linux"},
			Containers: []core.Container{{
				Name: containerName, Image: image, Command: []string{"sh", "-c", start}, WorkingDir: workingDir,
				Env: []core.EnvVar{{Name: "KUBECONFIG", Value: inputDir + "/kubeconfig"}, {Name: "HOME", Value: workingDir}},
				Resources: core.ResourceRequirements{
					Requests: core.ResourceList{core.ResourceCPU: resource.MustParse("200m"), core.ResourceMemory: resource.MustParse("500Mi")},
					Limits:   core.ResourceList{core.ResourceCPU: resource.MustParse("500m"), core.ResourceMemory: resource.MustParse("1Gi")},
				},
				VolumeMounts: []core.VolumeMount{{Name: "input", MountPath: inputDir, ReadOnly: true}, {Name: "files", MountPath: workingDir}},
			}},
			Volumes: []core.Volume{
				{Name: "input", VolumeSource: core.VolumeSource{Secret: &core.SecretVolumeSource{SecretName: objectName(id), Items: items}}},
				{Name: "files", VolumeSource: core.VolumeSource{EmptyDir: &core.EmptyDirVolumeSource{}}},
			},
		},
	}
}

// cleanUp takes away what ensure made, rights first.
func cleanUp(ctx context.Context, client kubernetes.Interface, id string) error {
	name := objectName(id)
	var grace int64
	for _, remove := range []func() error{
		func() error {
			return client.RbacV1().ClusterRoleBindings().Delete(ctx, bindingName(id), meta.DeleteOptions{})
		},
		func() error {
			return client.CoreV1().ServiceAccounts(namespace).Delete(ctx, name, meta.DeleteOptions{})
		},
		func() error { return client.CoreV1().Secrets(namespace).Delete(ctx, name, meta.DeleteOptions{}) },
		func() error {
			return client.CoreV1().Pods(namespace).Delete(ctx, name, meta.DeleteOptions{GracePeriodSeconds: &grace})
		},
	} {
		if err := remove(); err != nil && !apierrors.IsNotFound(err) {
			return fmt.Errorf("clean up after command %s: %w", id, err)
		}
	}
	return nil
}
