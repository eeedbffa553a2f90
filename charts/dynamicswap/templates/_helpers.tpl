{{/* Labels of every object. Takes a list: the root, and the part's name. */}}
{{- define "dynamicswap.labels" -}}
{{- $root := index . 0 -}}
{{ include "dynamicswap.selector" . }}
app.kubernetes.io/version: {{ $root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ $root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" $root.Chart.Name $root.Chart.Version | replace "+" "_" }}
{{- end -}}

{{/* Labels that select a part's pods; they never change. */}}
{{- define "dynamicswap.selector" -}}
{{- $root := index . 0 -}}
app.kubernetes.io/name: dynamicswap
app.kubernetes.io/instance: {{ $root.Release.Name }}
app.kubernetes.io/component: {{ index . 1 }}
{{- end -}}

{{/* Annotations of every pod: none of ours swaps to its own device. */}}
{{- define "dynamicswap.podAnnotations" -}}
dynamicswap.io/swap: disabled
{{- end -}}

{{/* The image of a list: the root, and its name. */}}
{{- define "dynamicswap.image" -}}
{{- $root := index . 0 -}}
{{- $image := $root.Values.image -}}
image: {{ printf "%s/dynamicswap-%s:%s" (trimSuffix "/" $image.registry) (index . 1) ($image.tag | default $root.Chart.AppVersion) }}
imagePullPolicy: {{ $image.pullPolicy }}
{{- end -}}

{{/* The controller's address. It is the Service's IP, which the kubelet writes into each container's
     environment: agents need no cluster DNS to find it. */}}
{{- define "dynamicswap.controller" -}}
{{- $host := "$(DYNAMICSWAP_CONTROLLER_SERVICE_HOST)" -}}
{{ ternary "https" "http" .Values.tls.enabled }}://{{ ternary (printf "[%s]" $host) $host .Values.ipv6 }}:{{ .Values.controller.port }}
{{- end -}}

{{/* Where the volume of dynamicswap.identity is mounted. */}}
{{- define "dynamicswap.identityPath" -}}
/run/secrets/dynamicswap
{{- end -}}

{{/* Who the pod is, for the controller, and who the controller is, for the pod. Takes a list: the root,
     and whether the pod may start before the controller has written the latter. */}}
{{- define "dynamicswap.identity" -}}
- name: identity
  projected:
    sources:
      - serviceAccountToken:
          audience: dynamicswap-controller
          expirationSeconds: 3600
          path: token
      - configMap:
          name: dynamicswap-trust
          optional: {{ index . 1 }}
          items:
            - key: ca.crt
              path: ca.crt
{{- end -}}

{{- define "dynamicswap.identityMount" -}}
- name: identity
  mountPath: {{ include "dynamicswap.identityPath" . }}
  readOnly: true
{{- end -}}

{{/* What a pod with our command line shows the controller. */}}
{{- define "dynamicswap.operatorArgs" -}}
- --controller={{ include "dynamicswap.controller" . }}
{{- if .Values.tls.enabled }}
- --tls-ca={{ include "dynamicswap.identityPath" . }}/ca.crt
- --token-file={{ include "dynamicswap.identityPath" . }}/token
{{- end }}
{{- end -}}

{{/* The node's address with a port. */}}
{{- define "dynamicswap.nodeAddress" -}}
{{- $host := "$(NODE_IP)" -}}
{{ ternary (printf "[%s]" $host) $host (index . 0).Values.ipv6 }}:{{ index . 1 }}
{{- end -}}

{{/* Where containers run that see no more than they are given. */}}
{{- define "dynamicswap.unprivileged" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
{{- end -}}

{{- define "dynamicswap.unprivilegedPod" -}}
runAsNonRoot: true
runAsUser: 65532
runAsGroup: 65532
seccompProfile:
  type: RuntimeDefault
{{- end -}}

{{/* Bytes of a size such as 16Gi. */}}
{{- define "dynamicswap.bytes" -}}
{{- $factors := dict "Ki" 1024 "Mi" 1048576 "Gi" 1073741824 "Ti" 1099511627776 -}}
{{- $unit := regexFind "[A-Za-z]+$" . -}}
{{- mul (regexFind "^[0-9]+" . | int64) (get $factors $unit | int64) -}}
{{- end -}}

{{/* What the schema cannot say about sizes; the daemons would refuse to start. */}}
{{- define "dynamicswap.checkSizes" -}}
{{- $slab := include "dynamicswap.bytes" .Values.slab | int64 -}}
{{- $size := include "dynamicswap.bytes" .Values.swapd.size | int64 -}}
{{- $capacity := include "dynamicswap.bytes" .Values.memoryServer.capacity | int64 -}}
{{- if lt $size $slab -}}
{{- fail (printf "swapd.size %s is smaller than one slab of %s: choose a larger size or a smaller slab" .Values.swapd.size .Values.slab) -}}
{{- end -}}
{{- if gt $size 1099511627776 -}}
{{- fail (printf "swapd.size %s is larger than the largest device, 1Ti" .Values.swapd.size) -}}
{{- end -}}
{{- if gt (div (sub (add $size $slab) 1) $slab) 16384 -}}
{{- fail (printf "swapd.size %s makes more than 16384 slabs of %s, which no message can describe: choose a larger slab" .Values.swapd.size .Values.slab) -}}
{{- end -}}
{{- if ne (mod $capacity $slab) 0 -}}
{{- fail (printf "memoryServer.capacity %s is no whole number of slabs of %s" .Values.memoryServer.capacity .Values.slab) -}}
{{- end -}}
{{- if gt (div $capacity $slab) 262144 -}}
{{- fail (printf "memoryServer.capacity %s makes more than 262144 slots of %s: choose a larger slab" .Values.memoryServer.capacity .Values.slab) -}}
{{- end -}}
{{- end -}}

{{/*
Rules of an admission policy by which the controller alone writes an object.
*/}}
{{- define "dynamicswap.byTheController" -}}
- expression: >-
    request.userInfo.username == "system:serviceaccount:{{ .Release.Namespace }}:dynamicswap-controller"
    || request.userInfo.username == "system:kube-controller-manager"
    || "system:serviceaccounts:kube-system" in request.userInfo.groups
  messageExpression: >-
    request.resource.resource + "/" + request.name + " is the controller's record of whose pages lie where: "
    + "nobody else writes it, or pages are lost. To take a borrower out, use 'kubectl dynamicswap forget'; "
    + "to mend a record all the same, scale the controller to 0 and delete the "
    + "ValidatingAdmissionPolicyBindings dynamicswap-slabmaps and dynamicswap-records for that time"
  reason: Forbidden
{{- end }}
