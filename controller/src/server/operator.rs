//! `Operator`: apply, delete, get, admit, rebalance, status.

use dynamicswap_proto::control::v1::operator_server::Operator;
use dynamicswap_proto::control::v1::{
    AdmitRequest, AdmitResponse, ApplyRequest, ApplyResponse, ClusterStatus, DeleteRequest,
    DeleteResponse, ForgetRequest, ForgetResponse, GetRequest, GetResponse, RebalanceRequest,
    RebalanceResponse, StatusRequest,
};
use dynamicswap_proto::identity::Right;
use tokio::sync::{mpsc, oneshot};
use tonic::{Request, Response, Status};

use super::{Access, stopping};
use crate::owner::Event;

/// The service.
#[derive(Debug, Clone)]
pub struct OperatorService {
    events: mpsc::Sender<Event>,
    access: Access,
}

impl OperatorService {
    /// A service that hands the calls which `access` lets through to the owner behind `events`.
    pub const fn new(events: mpsc::Sender<Event>, access: Access) -> Self {
        Self { events, access }
    }

    async fn ask<T>(&self, make: impl FnOnce(oneshot::Sender<T>) -> Event) -> Result<T, Status> {
        let (reply, answer) = oneshot::channel();
        self.events
            .send(make(reply))
            .await
            .map_err(|_| stopping())?;
        answer.await.map_err(|_| stopping())
    }
}

#[tonic::async_trait]
impl Operator for OperatorService {
    async fn apply(
        &self,
        request: Request<ApplyRequest>,
    ) -> Result<Response<ApplyResponse>, Status> {
        self.access.operator(&request, Right::Order).await?;
        let yaml = request.into_inner().yaml;
        let results = self.ask(|reply| Event::Apply { yaml, reply }).await??;
        Ok(Response::new(ApplyResponse { results }))
    }

    async fn delete(
        &self,
        request: Request<DeleteRequest>,
    ) -> Result<Response<DeleteResponse>, Status> {
        self.access.operator(&request, Right::Order).await?;
        let request = request.into_inner();
        let results = self.ask(|reply| Event::Delete { request, reply }).await??;
        Ok(Response::new(DeleteResponse { results }))
    }

    async fn forget(
        &self,
        request: Request<ForgetRequest>,
    ) -> Result<Response<ForgetResponse>, Status> {
        self.access.operator(&request, Right::Order).await?;
        let node = request.into_inner().node;
        let result = self.ask(|reply| Event::Forget { node, reply }).await??;
        Ok(Response::new(ForgetResponse { result }))
    }

    async fn get(&self, request: Request<GetRequest>) -> Result<Response<GetResponse>, Status> {
        self.access.operator(&request, Right::Look).await?;
        let request = request.into_inner();
        let objects_json = self.ask(|reply| Event::Get { request, reply }).await??;
        Ok(Response::new(GetResponse { objects_json }))
    }

    async fn admit(
        &self,
        request: Request<AdmitRequest>,
    ) -> Result<Response<AdmitResponse>, Status> {
        self.access.operator(&request, Right::Order).await?;
        let request = request.into_inner();
        let result = self.ask(|reply| Event::Admit { request, reply }).await??;
        Ok(Response::new(AdmitResponse { result }))
    }

    async fn rebalance(
        &self,
        request: Request<RebalanceRequest>,
    ) -> Result<Response<RebalanceResponse>, Status> {
        let dry_run = request.get_ref().dry_run;
        let right = if dry_run { Right::Look } else { Right::Order };
        self.access.operator(&request, right).await?;
        let shown = self
            .ask(|reply| Event::Rebalance { dry_run, reply })
            .await?;
        Ok(Response::new(shown))
    }

    async fn status(
        &self,
        request: Request<StatusRequest>,
    ) -> Result<Response<ClusterStatus>, Status> {
        self.access.operator(&request, Right::Look).await?;
        let events_after = request.into_inner().events_after;
        let status = self
            .ask(|reply| Event::Status {
                events_after,
                reply,
            })
            .await?;
        Ok(Response::new(status))
    }
}
