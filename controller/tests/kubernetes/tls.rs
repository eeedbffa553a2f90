//! Who is who on a real API server: tokens are reviewed by it, authorities kept in it, and what an
//! agent may write is its admission's to say.

use dynamicswap_proto::SESSION_PROTOCOL;
use dynamicswap_proto::control::v1::agent_message::Kind;
use dynamicswap_proto::control::v1::agent_session_client::AgentSessionClient;
use dynamicswap_proto::control::v1::enrollment_client::EnrollmentClient;
use dynamicswap_proto::control::v1::operator_client::OperatorClient;
use dynamicswap_proto::control::v1::{
    Admission, AdmitRequest, AgentMessage, ClusterStatus, DesiredDocument, EnrollRequest, Hello,
    StatusRequest,
};
use dynamicswap_proto::identity::{AUDIENCE, AUTHORIZATION, CONTROLLER_NAME, bearer};
use rcgen::{CertificateParams, KeyPair};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};
use tonic::{Code, Request, Status, Streaming};

use super::support::PATIENCE;
use super::{Candidate, NAMESPACE, Server, eventually};

const AGENT: &str = "dynamicswap-agent";

/// A node that is there by name, and an agent's pod on it.
fn node_with_pod(node: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Node\nmetadata: {{name: {node}}}\n---\napiVersion: v1\nkind: Pod\n\
         metadata: {{name: agent-{node}, namespace: {NAMESPACE}}}\nspec:\n  nodeName: {node}\n  \
         serviceAccountName: {AGENT}\n  containers: [{{name: agent, image: none}}]\n"
    )
}

/// A server with everything of the chart that says who may do what, and two nodes.
fn start() -> Option<Server> {
    let server = Server::start()?;
    let accounts = format!(
        "apiVersion: v1\nkind: ServiceAccount\nmetadata: {{name: {AGENT}, namespace: {NAMESPACE}}}\n"
    );
    server.apply(&accounts).expect("applied");
    server.apply_part("users");
    server.apply_part("admission");
    for node in ["n1", "n2"] {
        server.apply(&node_with_pod(node)).expect("applied");
    }
    Some(server)
}

impl Server {
    /// A token of an account; of one of its pods, for one audience, as more arguments say.
    fn token(&self, account: &str, more: &[&str]) -> String {
        let namespace = format!("--namespace={NAMESPACE}");
        let arguments = [&["create", "token", account, &namespace], more].concat();
        self.kubectl(&arguments).trim().to_owned()
    }

    /// The token that the kubelet would give the agent's pod on `node`.
    fn agent_token(&self, node: &str) -> String {
        let (audience, pod) = (format!("--audience={AUDIENCE}"), format!("agent-{node}"));
        let bound = ["--bound-object-kind=Pod", "--bound-object-name", &pod];
        self.token(AGENT, &[&[audience.as_str()], &bound[..]].concat())
    }

    /// What agents would find in their volume.
    fn trust(&self) -> String {
        let namespace = format!("--namespace={NAMESPACE}");
        let path = "jsonpath={.data.ca\\.crt}";
        self.kubectl(&[
            "get",
            "configmap",
            "dynamicswap-trust",
            &namespace,
            "-o",
            path,
        ])
    }
}

async fn connect(address: &str, trust: &str, identity: Option<Identity>) -> Channel {
    let tls = ClientTlsConfig::new().domain_name(CONTROLLER_NAME);
    let mut tls = tls.ca_certificate(Certificate::from_pem(trust));
    if let Some(identity) = identity {
        tls = tls.identity(identity);
    }
    let endpoint = Endpoint::from_shared(format!("https://{address}")).expect("an address");
    let endpoint = endpoint.tls_config(tls).expect("sound");
    endpoint.connect().await.expect("connected")
}

fn with_token<T>(message: T, token: &str) -> Request<T> {
    let mut request = Request::new(message);
    let token = bearer(token).parse().expect("ASCII");
    request.metadata_mut().insert(AUTHORIZATION, token);
    request
}

async fn enroll(address: &str, trust: &str, token: &str) -> Result<(Identity, String), Status> {
    let channel = connect(address, trust, None).await;
    let key = KeyPair::generate().expect("a key");
    let request = CertificateParams::default().serialize_request(&key);
    let request_der = request.expect("a request").der().to_vec();
    let request = with_token(EnrollRequest { request_der }, token);
    let answer = EnrollmentClient::new(channel).enroll(request).await?;
    let answer = answer.into_inner();
    let identity = Identity::from_pem(answer.certificates_pem, key.serialize_pem());
    Ok((identity, answer.node))
}

type Session = (mpsc::Sender<AgentMessage>, Streaming<DesiredDocument>);

async fn open(channel: Channel, node: &str) -> Session {
    let (up, messages) = mpsc::channel(4);
    let hello = Hello {
        node: node.to_owned(),
        failure_domain: node.to_owned(),
        protocol: SESSION_PROTOCOL,
        borrower: true,
        ..Hello::default()
    };
    let kind = Some(Kind::Hello(hello));
    up.send(AgentMessage { kind }).await.expect("room");
    let mut client = AgentSessionClient::new(channel);
    let opened = client.open(ReceiverStream::new(messages)).await;
    (up, opened.expect("a stream").into_inner())
}

async fn status(channel: Channel, token: &str) -> Result<ClusterStatus, Status> {
    let request = with_token(StatusRequest::default(), token);
    let answer = OperatorClient::new(channel).status(request).await;
    answer.map(tonic::Response::into_inner)
}

#[tokio::test(flavor = "multi_thread")]
async fn token_that_the_api_server_vouches_for_brings_its_node_s_certificate_and_no_other_does() {
    let Some(server) = start() else {
        return;
    };
    let mut first = Candidate::start_with(&server, "first", "10.11.0.1", &["--tls-issue"]);
    let address = first.leads().await;
    let trust = server.trust();
    let token = server.agent_token("n1");
    let (own, node) = enroll(&address, &trust, &token).await.expect("enrolled");
    assert_eq!(node, "n1");

    let (_up, _down) = open(connect(&address, &trust, Some(own.clone())).await, "n1").await;
    let (_up, mut down) = open(connect(&address, &trust, Some(own.clone())).await, "n2").await;
    let stolen = down.message().await.expect_err("another node's");
    assert_eq!(stolen.code(), Code::PermissionDenied);
    assert!(stolen.message().contains("its own node alone"), "{stolen}");

    let elsewhere = server.token(
        AGENT,
        &["--bound-object-kind=Pod", "--bound-object-name=agent-n1"],
    );
    let refused = enroll(&address, &trust, &elsewhere)
        .await
        .expect_err("for the API server");
    assert_eq!(refused.code(), Code::Unauthenticated, "{refused}");
    let audience = format!("--audience={AUDIENCE}");
    let of_no_pod = server.token(AGENT, &[&audience]);
    let refused = enroll(&address, &trust, &of_no_pod)
        .await
        .expect_err("of no pod");
    assert_eq!(refused.code(), Code::PermissionDenied, "{refused}");
    let other = server.token("dynamicswap-status", &[&audience]);
    let refused = enroll(&address, &trust, &other)
        .await
        .expect_err("no agent");
    assert_eq!(refused.code(), Code::PermissionDenied, "{refused}");

    looks_and_orders_nothing(&connect(&address, &trust, None).await, &other).await;

    // A pod that is gone proves nothing any more; the certificate stays good.
    let namespace = format!("--namespace={NAMESPACE}");
    let now = [
        "delete",
        "pod",
        "agent-n1",
        &namespace,
        "--force",
        "--grace-period=0",
    ];
    server.kubectl(&now);
    let gone = refused_at_last(&address, &trust, &token).await;
    assert_eq!(gone.code(), Code::Unauthenticated, "{gone}");

    // The next leader has the same authority.
    let second = Candidate::start_with(&server, "second", "10.11.0.2", &["--tls-issue"]);
    first.kill();
    let address = second.leads().await;
    assert_eq!(server.trust(), trust);
    let (_up, _down) = open(connect(&address, &trust, Some(own)).await, "n1").await;
    let channel = connect(&address, &trust, None).await;
    eventually_connected(&channel, &other).await;
}

/// The API server remembers for ten seconds whose a token is.
async fn refused_at_last(address: &str, trust: &str, token: &str) -> Status {
    let deadline = std::time::Instant::now() + PATIENCE;
    loop {
        if let Err(refused) = enroll(address, trust, token).await {
            return refused;
        }
        assert!(std::time::Instant::now() < deadline, "taken for ever");
        tokio::time::sleep(std::time::Duration::from_millis(200)).await;
    }
}

/// A status account's token: it sees that the thief was noticed, and changes nothing.
async fn looks_and_orders_nothing(channel: &Channel, token: &str) {
    let seen = status(channel.clone(), token).await.expect("may look");
    assert!(
        seen.nodes
            .iter()
            .any(|node| node.node == "n1" && node.connected)
    );
    assert!(!seen.nodes.iter().any(|node| node.node == "n2"));
    let mut events = seen.events.iter();
    assert!(events.any(|event| event.kind == "SessionRefused" && event.node == "n2"));
    let request = AdmitRequest {
        node: "n1".to_owned(),
        admission: Admission::Cordoned.into(),
        within_ms: 0,
    };
    let mut operator = OperatorClient::new(channel.clone());
    let refused = operator.admit(with_token(request, token)).await;
    let refused = refused.expect_err("may not order");
    assert_eq!(refused.code(), Code::PermissionDenied, "{refused}");
    let nobody = status(channel.clone(), "none").await.expect_err("no token");
    assert_eq!(nobody.code(), Code::Unauthenticated, "{nobody}");
}

async fn eventually_connected(channel: &Channel, token: &str) {
    let deadline = std::time::Instant::now() + PATIENCE;
    loop {
        let seen = status(channel.clone(), token).await.expect("may look");
        if seen
            .nodes
            .iter()
            .any(|node| node.node == "n1" && node.connected)
        {
            return;
        }
        assert!(std::time::Instant::now() < deadline, "never connected");
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn agent_s_account_writes_the_objects_of_its_own_node_alone() {
    let Some(server) = start() else {
        return;
    };
    give_too_much(&server);
    let kubeconfig = agent_kubeconfig(&server);
    let create = |name: &str| {
        let client = server.plane.client();
        client.kubectl_fed(&[&kubeconfig, "create", "-f", "-"], &memory_server(name))
    };
    // The API server takes a policy into account some seconds after it was made.
    let mut said = String::new();
    eventually(PATIENCE, "another node's object is refused", || {
        match create("n2") {
            Ok(_) => drop(server.try_kubectl(&["delete", "memoryserver", "n2"])),
            Err(error) => said = format!("{error:#}"),
        }
        said.contains("ValidatingAdmissionPolicy")
    })
    .await;
    for part in [
        "the agent of node n1",
        "memoryservers/n2",
        "its own node alone",
    ] {
        assert!(said.contains(part), "{said}");
    }
    create("n1").expect("its own");
    let label = ["label", "memoryserver", "n1", "by=agent"];
    let client = server.plane.client();
    client
        .kubectl(&[&[kubeconfig.as_str()], &label[..]].concat())
        .expect("its own");
    server
        .apply(&memory_server("n2"))
        .expect("the administrator's");
    let label = [
        kubeconfig.as_str(),
        "label",
        "memoryserver",
        "n2",
        "by=agent",
    ];
    assert!(client.kubectl(&label).is_err());
    assert!(
        client
            .kubectl(&[&kubeconfig, "delete", "memoryserver", "n2"])
            .is_err()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn records_are_written_by_the_controller_and_by_nobody_else() {
    let Some(server) = start() else {
        return;
    };
    let first = Candidate::start_with(&server, "first", "10.11.0.1", &["--tls-issue"]);
    first.leads().await;
    let namespace = format!("--namespace={NAMESPACE}");
    let state = ["configmap", "dynamicswap-state", namespace.as_str()];
    let label = [&["label", "--overwrite"], &state[..], &["by=hand"]].concat();
    let mut said = String::new();
    eventually(PATIENCE, "an edit of a record is refused", || {
        if let Err(error) = server.try_kubectl(&label) {
            said = format!("{error:#}");
        }
        said.contains("dynamicswap-records")
    })
    .await;
    assert!(said.contains("the controller's record"), "{said}");
    let delete = [&["delete"], &state[..]].concat();
    assert!(server.try_kubectl(&delete).is_err());
    let example = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../crds/examples/slab-map.yaml"
    );
    let error = server.try_kubectl(&["apply", "--filename", example]);
    let said = format!("{:#}", error.expect_err("a record"));
    assert!(said.contains("dynamicswap-slabmaps"), "{said}");
    let other = format!(
        "apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: other, namespace: {NAMESPACE}}}\n"
    );
    server.apply(&other).expect("no record");
}

fn memory_server(name: &str) -> String {
    format!(
        "apiVersion: dynamicswap.io/v1alpha1\nkind: MemoryServer\nmetadata: {{name: {name}}}\n\
         spec: {{}}\n"
    )
}

/// Gives the agents' account rights that the chart does not.
fn give_too_much(server: &Server) {
    server
        .apply(&format!(
            "apiVersion: rbac.authorization.k8s.io/v1\nkind: ClusterRole\nmetadata: {{name: too-much}}\n\
             rules:\n- apiGroups: [dynamicswap.io]\n  resources: [memoryservers, slabmaps]\n  \
             verbs: [get, create, update, patch, delete]\n---\n\
             apiVersion: rbac.authorization.k8s.io/v1\nkind: ClusterRoleBinding\n\
             metadata: {{name: too-much}}\n\
             roleRef: {{apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: too-much}}\n\
             subjects: [{{kind: ServiceAccount, name: {AGENT}, namespace: {NAMESPACE}}}]\n"
        ))
        .expect("applied");
}

/// The flag that makes kubectl the agent of n1.
fn agent_kubeconfig(server: &Server) -> String {
    let bound = ["--bound-object-kind=Pod", "--bound-object-name=agent-n1"];
    let token = server.token(AGENT, &bound);
    let kubeconfig = server.directory.path().join("agent.kubeconfig");
    let text = format!(
        "apiVersion: v1\nkind: Config\ncurrent-context: c\n\
         clusters: [{{name: c, cluster: {{server: '{}', certificate-authority: ca.crt}}}}]\n\
         contexts: [{{name: c, context: {{cluster: c, user: u}}}}]\n\
         users: [{{name: u, user: {{token: '{token}'}}}}]\n",
        server.plane.endpoint()
    );
    std::fs::write(&kubeconfig, text).expect("written");
    let authority = server.directory.path().join("ca.crt");
    std::fs::write(authority, server.plane.authority()).expect("written");
    format!("--kubeconfig={}", kubeconfig.display())
}
