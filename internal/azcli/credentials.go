package azcli

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"

	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"

	"github.com/cloister-dev/cloister/internal/arm/resourceid"
)

// getCredentials merges a kubeconfig into the user's, as az does.
func getCredentials(c *call, id resourceid.ID) (any, error) {
	config, err := fetchKubeconfig(c, id)
	if err != nil {
		return nil, err
	}
	file := c.get("file")
	if file == "-" {
		_, err := c.out.Write(config)
		return nil, err
	}
	if file == "" {
		home, err := os.UserHomeDir()
		if err != nil {
			return nil, err
		}
		file = filepath.Join(home, ".kube", "config")
	}
	fresh, err := clientcmd.Load(config)
	if err != nil {
		return nil, fmt.Errorf("read the kubeconfig that the service gave: %w", err)
	}
	if name := c.get("context"); name != "" {
		fresh.Contexts = map[string]*clientcmdapi.Context{name: fresh.Contexts[fresh.CurrentContext]}
		fresh.CurrentContext = name
	}
	merged, err := clientcmd.LoadFromFile(file)
	if errors.Is(err, os.ErrNotExist) {
		merged, err = clientcmdapi.NewConfig(), nil
	}
	if err != nil {
		return nil, err
	}
	for name, cluster := range fresh.Clusters {
		if old, taken := merged.Clusters[name]; taken && !c.is("overwrite-existing") && old.Server != cluster.Server {
			return nil, fmt.Errorf("A different object named %s already exists in your kubeconfig file.\nOverwrite with --overwrite-existing", name)
		}
		merged.Clusters[name] = cluster
	}
	for name, user := range fresh.AuthInfos {
		merged.AuthInfos[name] = user
	}
	for name, context := range fresh.Contexts {
		merged.Contexts[name] = context
	}
	merged.CurrentContext = fresh.CurrentContext
	if err := clientcmd.WriteToFile(*merged, file); err != nil { // 0600
		return nil, err
	}
	fmt.Fprintf(c.err, "Merged \"%s\" as current context in %s\n", fresh.CurrentContext, file)
	return nil, nil
}

func fetchKubeconfig(c *call, id resourceid.ID) ([]byte, error) {
	action := "/listClusterUserCredential"
	if c.is("admin") {
		action = "/listClusterAdminCredential"
	}
	path := id.String() + action
	if c.is("public-fqdn") {
		path += "?server-fqdn=public"
	}
	_, data, err := c.c.send(c.ctx, http.MethodPost, path, aksAPI, nil)
	if err != nil {
		return nil, err
	}
	var answer struct {
		Kubeconfigs []struct{ Name, Value string }
	}
	if err := json.Unmarshal(data, &answer); err != nil {
		return nil, fmt.Errorf("read the service's answer: %w", err)
	}
	if len(answer.Kubeconfigs) == 0 {
		return nil, errors.New("No Kubernetes credentials found.")
	}
	return base64.StdEncoding.DecodeString(answer.Kubeconfigs[0].Value)
}
